"""What `tk data view` draws on a terminal: colour where it may, and what the data holds as pictures of it."""

from __future__ import annotations

import contextlib
import os
import pty
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seeing_kit import make_folder, prepared

from tkernel.testing import tiny
from tkernel_plugins.data.look.alignment import missing, placed, positions
from tkernel_plugins.data.look.cells import page_of
from tkernel_plugins.data.look.looking import Looking
from tkernel_plugins.data.look.on_terminal import Line, page_lines, show
from tkernel_plugins.data.look.pieces import Pieces, visible
from tkernel_plugins.data.look.sample import Sample, Span, Strip


def drawn(lines: Sequence[Line]) -> str:
    """What a terminal gets."""
    ours, theirs = pty.openpty()
    with open(theirs, "w", encoding="utf-8") as terminal, contextlib.redirect_stdout(terminal):
        show(lines)
    text = b""
    with contextlib.suppress(OSError):  # reading past what a closed terminal was given
        while chunk := os.read(ours, 65536):
            text += chunk
    os.close(ours)
    return text.decode("utf-8")


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[Line]:
    folder = make_folder(tmp_path_factory.mktemp("terminal"))
    run = prepared(folder, "dataset=chats")
    with contextlib.chdir(folder):
        (sample,) = Looking(run.request, run.prepared, run.kind).samples("train", 0, 1)
    return list(page_lines(page_of(sample, 0, 1), Pieces(run.request.bundle.tokenizer), 80, 1))


def test_a_terminal_gets_colour_and_no_sequence_of_the_data(
    lines: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = drawn(lines)
    assert "\x1b[1;33m" in text  # what is learned with a weight of its own
    assert "\x1b[31m" not in text  # the red that the data asks for
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[1;33m" not in drawn(lines)
    assert "33m" not in drawn(lines)


def test_lines_fill_the_width_and_no_more(lines: list[Line]) -> None:
    assert all(len("".join(text for text, _ in line).rstrip()) <= 80 for line in lines)


@given(st.text() | st.characters(categories=["Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Mn"]))
def test_every_text_becomes_one_printable_line(text: str) -> None:
    shown = visible(text)
    assert shown.isprintable()
    assert len(shown) >= len(text)
    assert visible(shown) == shown or "\\" in shown or "◌" in shown


@given(st.text(max_size=30))
def test_pieces_of_a_byte_level_vocabulary_spell_every_byte(text: str) -> None:
    tokenizer = tiny.make_tokenizer(())
    pieces = Pieces(tokenizer)
    raw = b""
    for token in tokenizer(text).input_ids:
        piece = pieces(token)
        spelled = piece.startswith("<0x") and len(piece) == 6
        raw += bytes([int(piece[3:5], 16)]) if spelled else piece.encode("utf-8")
    assert raw == text.encode("utf-8")


def test_ids_outside_the_vocabulary_have_a_name() -> None:
    assert Pieces(tiny.make_tokenizer())(10**6) == "<no token 1000000>"


@given(st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=6), st.data())
def test_what_is_left_and_what_was_cut_make_the_whole(parts: list[list[int]], data: st.DataObject) -> None:
    whole = [token for part in parts for token in part]
    stops = [sum(map(len, parts[: n + 1])) for n in range(len(parts))]
    spans: list[Span] = [
        (stop - len(part), stop, n // 2 + 1, ("prompt", "reply")[n % 2])
        for n, (part, stop) in enumerate(zip(parts, stops, strict=True))
    ]
    kept = [part[: data.draw(st.integers(0, len(part)))] for part in parts]
    ids = [token for part in kept for token in part]
    found = positions(whole, spans, ids)
    assert found is not None
    assert [whole[position] for position in found] == ids
    assert found == sorted(set(found))
    strip = Strip("input", tuple(ids), (), spans=placed(spans, found), cut=missing(whole, spans, found))
    assert sum(stop - start for start, stop, *_ in strip.spans) == len(ids)
    for cut in reversed(strip.cut):
        ids[cut.before : cut.before] = cut.ids
    assert ids == whole


def test_what_is_no_part_of_the_whole_is_told() -> None:
    spans: list[Span] = [(0, 3, 1, "prompt")]
    assert positions([1, 2, 3], spans, [3, 1]) is None
    assert positions([1, 2, 3], spans, [1, 2, 4]) is None
    assert positions([1, 2, 3], spans, [1, 2, 3, 3]) is None


@given(st.integers(0, 40), st.integers(0, 50))
def test_pages_show_every_token_once(tokens: int, size: int) -> None:
    sample = Sample(0, "train", (Strip("chosen", (7,) * tokens, ()), Strip("rejected", (8,) * 5, ())))
    seen: list[int] = []
    for number in range(1, page_of(sample, size, 1).pages + 1):
        for _, strip, start, stop in page_of(sample, size, number).strips():
            seen += strip.ids[start:stop]
    assert seen == [7] * tokens + [8] * 5
