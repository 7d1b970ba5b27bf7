"""`tk data render`: goldens through real processes, and lines that nobody should write."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tkernel.errors import TkError
from tkernel.testing import tiny
from tkernel_plugins.commands.rendered import Renderings

MODES = {"true": True, "false": False, "null": None}
ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
}


def tk(*arguments: str | Path, code: int = 0) -> str:
    """What `tk data render` prints."""
    command = [sys.executable, "-m", "tkernel", "data", "render", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def smollm2(shared: Path) -> Path:
    return shared / "golden" / "smollm2-tokenizer"


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny.make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def renderings(tiny_folder: Path) -> Renderings:
    return Renderings(str(tiny_folder))


def goldens(shared: Path, name: str) -> list[dict[str, Any]]:
    with gzip.open(shared / "golden" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def flags_of(mode: str) -> dict[str, Any]:
    """The options of a line for a mode of the goldens."""
    flags = dict(part.partition("=")[::2] for part in mode.split(","))
    options: dict[str, Any] = {}
    if "enable_thinking" in flags:
        options["enable_thinking"] = MODES[flags["enable_thinking"]]
    if "preserve_thinking" in flags:
        options["preserve_thinking"] = True
    if "discard_history_cot" in flags:
        options["mask_history"] = True
    return options


def lines_file(folder: Path, lines: list[dict[str, Any]]) -> Path:
    file = folder / "lines.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


@pytest.mark.parametrize("every_mode", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_all_golden_conversations_in_one_call(
    shared: Path, smollm2: Path, tmp_path: Path, every_mode: bool
) -> None:
    lines, expected = [], []
    for row in goldens(shared, "templates"):
        conversation = {key: row[key] for key in ("template", "messages", "system", "tools")}
        modes = list(row["variants"].items())
        for mode, turns in modes if every_mode else modes[:1]:
            lines.append({**conversation, **flags_of(mode), "date": "2025-01-15"})
            expected.append({"turns": turns} | {key: row[key] for key in ("stop_words", "default_system")})
    printed = tk("--tokenizer", smollm2, "--jsonl", lines_file(tmp_path, lines)).splitlines()
    for text, line, wanted in zip(printed, lines, expected, strict=True):
        rendered = json.loads(text)
        assert {key: rendered.get(key) for key in wanted} == wanted, line


def test_ids_and_labels_in_one_call(shared: Path, smollm2: Path, tmp_path: Path) -> None:
    rows = goldens(shared, "sft_labels")
    lines = [
        {
            "template": row["template"],
            "messages": row["example"]["_prompt"] + row["example"]["_response"],
            "system": row["example"]["_system"],
            "tools": row["example"]["_tools"],
            **row["options"],
        }
        for row in rows
    ]
    printed = tk("--tokenizer", smollm2, "--jsonl", lines_file(tmp_path, lines), "--date", "2025-01-15")
    for text, row in zip(printed.splitlines(), rows, strict=True):
        rendered = json.loads(text)
        where = (row["template"], row["sample"], row["options"])
        assert (rendered["ids"], rendered["labels"]) == (row["input_ids"], row["labels"]), where


def test_one_conversation(smollm2: Path, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    file.write_text(json.dumps(ASKED))
    options = ("--tokenizer", smollm2, "--conversation", file, "--template", "qwen3")
    rendered = json.loads(tk(*options, "--json"))
    assert list(rendered) == ["template", "turns", "ids", "labels", "stop_words", "default_system"]
    ((prompt, reply),) = rendered["turns"]
    assert (prompt[-12:], reply) == ("|>assistant\n", "<think>\n\n</think>\n\nHello!<|im_end|>\n")
    ((prompt, reply),) = json.loads(tk(*options, "--json", "--enable_thinking", "false"))["turns"]
    assert (prompt[-12:], reply) == ("\n\n</think>\n\n", "Hello!<|im_end|>\n")
    assert "-- reply 1\n<think>\n\n</think>\n\nHello!<|im_end|>" in tk(*options)


def test_wrong_requests_are_named(tiny_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    file.write_text(json.dumps(ASKED))
    options = ("--tokenizer", tiny_folder, "--conversation", file)
    assert "names no template" in tk(*options, code=4)
    assert "Did you mean 'qwen3'" in tk(*options, "--template", "qwem3", code=2)
    assert "not 'maybe'" in tk(*options, "--template", "qwen3", "--enable_thinking", "maybe", code=2)
    assert "one of --conversation FILE and --jsonl FILE" in tk("--tokenizer", tiny_folder, code=2)
    assert "cannot read" in tk("--tokenizer", tiny_folder, "--jsonl", tmp_path / "none", code=1)


def test_a_line_that_cannot_be_rendered_leaves_the_others(tiny_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    good = json.dumps({**ASKED, "template": "chatml"}).encode()
    bad = [b"{", b"", b"\xff", b"[1]", b'{"template": "none", "messages": []}', b"[" * 100_000]
    file.write_bytes(b"\n".join([good, *bad, good]))
    printed = [json.loads(line) for line in tk("--tokenizer", tiny_folder, "--jsonl", file).splitlines()]
    assert [list(line) == ["error"] for line in printed] == [False, *[True] * len(bad), False]


def test_openai_roles_and_llama_factorys_render_alike(renderings: Renderings) -> None:
    tool = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}
    theirs = {
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "function", "content": '<think>\nW.\n</think>\n\n{"name": "f", "arguments": {"x": 1}}'},
            {"role": "observation", "content": "2"},
            {"role": "assistant", "content": "b"},
        ],
        "system": "S.",
        "tools": json.dumps([tool]),
    }
    call = {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    openais = {
        "messages": [
            {"role": "system", "content": "S."},
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
            {"role": "assistant", "content": None, "reasoning_content": "W.", "tool_calls": [call]},
            {"role": "tool", "content": "2", "tool_call_id": "1"},
            {"role": "assistant", "content": "b"},
        ],
        "tools": [{"type": "function", "function": tool}],
    }
    for name in ("qwen3", "llama3", "glm4_moe", "deepseekr1"):
        first, second = (
            renderings.of_line(json.dumps(chat), {"template": name, "date": "2025-01-15"})
            for chat in (theirs, openais)
        )
        assert first["turns"] == second["turns"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cutoff_len": 0}, "`cutoff_len` must be at least 1"),
        ({"cutoff_len": "many"}, "`cutoff_len` must be int, not text"),
        ({"mask_history": None}, "`mask_history` must be bool, not null"),
        ({"enable_thinking": 1}, "`enable_thinking` must be bool or null, not a number"),
        ({"date": "today"}, "`date` is YYYY-MM-DD"),
        ({"tool_format": "none"}, "there is no tool format 'none'"),
        ({"train_on_prompt": True, "template": "glm4"}, "cannot train on prompts"),
        ({"preserve_thinking": True, "template": "auto"}, "has no option `preserve_thinking`"),
        ({"tools": "{"}, "tools` is not valid JSON"),
        ({"tools": [{"description": "nameless"}]}, "tool 0 has no name"),
        ({"tools": [{"name": "f", "parameters": [1]}]}, "tool 0 ('f') are no JSON schema"),
        ({"messages": [{"role": "narrator", "content": "a"}]}, "unknown role"),
        ({"messages": "Hi"}, "messages"),
        ({"system": "\ud800"}, "half of one"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(
    renderings: Renderings, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(TkError) as caught:
        renderings.of_line(json.dumps({"template": "qwen3", **ASKED, **change}), {})
    assert message in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ODD_CALLS = st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": JSON, "arguments": JSON})})
MESSAGES = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "tool", "function", "observation", "system", "x"]),
        "content": JSON
        | st.sampled_from(["a", '{"name": "f", "arguments": {}}', "<think>\nb\n</think>\n\nc"]),
    },
    optional={"tool_calls": st.lists(ODD_CALLS, max_size=2), "reasoning": JSON},
)
SCHEMAS = JSON | st.fixed_dictionaries({"properties": JSON, "required": JSON, "type": JSON})
TOOLS = st.lists(
    JSON | st.fixed_dictionaries({"name": st.just("f") | JSON, "parameters": SCHEMAS, "response": JSON}),
    max_size=2,
)


@pytest.mark.parametrize(
    "name", ["chatml", "gemma4", "glm4", "lfm2", "minimax2", "mistral", "phi4_mini", "qwen3"]
)
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(messages=st.lists(MESSAGES, max_size=4) | JSON, system=JSON, tools=TOOLS | JSON)
def test_any_json_is_rendered_or_refused(
    renderings: Renderings, name: str, messages: Any, system: Any, tools: Any
) -> None:
    line = json.dumps({"messages": messages, "system": system, "tools": tools})
    try:
        rendered = renderings.of_line(line, {"template": name})
    except TkError:
        return
    assert len(rendered["ids"]) == len(rendered["labels"]) > 0
