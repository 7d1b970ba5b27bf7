"""Text to ids word by word, each word encoded once: what byte-level BPE makes of a word depends on nothing around it.

`tokenizers` cuts text into words with regular expressions, and this takes most of its time. Python's `re` cuts in a
fraction of that, with the same expressions, where both know the same characters.
"""

from __future__ import annotations

import json
import re
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

_KEPT, _LONG = 1 << 16, 64
"""Words that are remembered, and the characters of the longest."""
_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""How `ByteLevel` cuts with `use_regex`."""
_GPT2_DIGITS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
"""The same after every digit has become a piece of its own: in one go."""
_SPACES = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_PROBES = (
    "It's 2,048 o'clock, WE'LL see: naïve café — “ok”…\n\n\tif x[0]==1:  return  \r\n   y",
    "  \n \u3000中文,日本語テスト。Привет, мир! 한국어 １２３ ½ x² a\u0301\u200d \x00\x1f\x85 don't-'S",
    " ' '' 'x 're7890123 $%^&*()_+ <|a|> a\u00a0 b   ",
)


class Cut:
    """Cuts texts at every match of an expression, which is a piece of its own."""

    def __init__(self, pattern: str) -> None:
        self._matches, self._between = re.compile(pattern), re.compile(f"({pattern})")
        if self._matches.groups or self._matches.search(""):
            raise ValueError(pattern)

    def __call__(self, text: str) -> list[str]:
        """The pieces of `text`, in order."""
        found: list[str] = self._matches.findall(text)
        if sum(map(len, found)) == len(text):
            return found
        return [piece for piece in self._between.split(text) if piece]


class Words(dict[str, bytes]):
    """Word -> its ids, as C integers. Called with a text, it gives the ids of that, or None.

    Args:
        model: tokenises one word in the alphabet of bytes (`tokenizers.models.BPE`).
        tokens: text -> id of the added tokens, which stand for themselves wherever they occur.
        odd: other added tokens; texts that hold one are not encoded here.
        cuts: cut a text into pieces, one after the other.
        composed: texts must be in the normal form NFC.
    """

    def __init__(
        self, model: Any, tokens: dict[str, int], odd: Sequence[str], cuts: Sequence[Cut], composed: bool
    ) -> None:
        super().__init__()
        self._model, self._cuts, self._composed = model, cuts, composed
        self._tokens = {text: _packed([token]) for text, token in tokens.items()}
        self._token = re.compile(f"({_any_of(tokens)})") if tokens else None
        self._odd = re.compile(_any_of(odd)) if odd else None

    def __missing__(self, word: str) -> bytes:
        letters = "".join(map(_alphabet().__getitem__, word.encode()))
        ids = _packed([token.id for token in self._model.tokenize(letters)])
        if len(word) <= _LONG:
            if len(self) >= _KEPT:
                self.clear()
            self[word] = ids
        return ids

    def __call__(self, text: str) -> bytes | None:
        """The ids of `text`; None where it holds what only the tokenizer knows how to read."""
        if not text.isascii() and (_foreign().search(text) or not self._is_composed(text)):
            return None
        if self._odd is not None and self._odd.search(text):
            return None
        if self._token is None or not self._token.search(text):
            return self._ids(text)
        parts = self._token.split(text)
        return b"".join(self._tokens.get(part) or self._ids(part) for part in parts if part)

    def _is_composed(self, text: str) -> bool:
        return not self._composed or unicodedata.is_normalized("NFC", text)

    def _ids(self, text: str) -> bytes:
        pieces = [text]
        for cut in self._cuts:
            pieces = cut(text) if len(pieces) == 1 else [word for piece in pieces for word in cut(piece)]
        return b"".join(map(self.__getitem__, pieces))


def words_of(backend: Any) -> Words | None:
    """Words for a `tokenizers.Tokenizer`; None for one that works otherwise, or that a few texts tell apart."""
    cuts = _cuts(
        json.loads(backend.pre_tokenizer.__getstate__() or "null") if backend.pre_tokenizer else None
    )
    normalizer = json.loads(backend.normalizer.__getstate__()) if backend.normalizer else {"normalizers": []}
    composed = normalizer.get("type") == "NFC"
    if (
        type(backend.model).__name__ != "BPE"
        or not cuts
        or not (composed or normalizer.get("normalizers") == [])
    ):
        return None
    if backend.model.dropout:
        return None
    added = backend.get_added_tokens_decoder()
    plain = {
        token.content: number
        for number, token in added.items()
        if not (token.lstrip or token.rstrip or token.single_word or token.normalized) and token.content
    }
    odd = [token.content for token in added.values() if token.content not in plain and token.content]
    words = Words(backend.model, plain, odd, cuts, composed)
    for probe in (*_PROBES, "x".join(plain)):
        ids = words(probe)
        if ids is not None and ids != _packed(backend.encode(probe, add_special_tokens=False).ids):
            return None
    return words


def _packed(ids: Sequence[int]) -> bytes:
    return array("i", ids).tobytes()


def _any_of(texts: Sequence[str] | dict[str, int]) -> str:
    return "|".join(map(re.escape, sorted(texts, key=len, reverse=True)))


def _cuts(pre_tokenizer: Any) -> list[Cut]:
    """How a pre-tokenizer, as it describes itself, cuts; [] if it does something else than to cut and to spell
    bytes, or in a way that cannot be written for `re`."""
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer])
    cuts: list[Cut] = []
    for step in steps:
        kind = step and step["type"]
        if kind == "Digits":
            pattern = r"\p{N}" if step["individual_digits"] else r"\p{N}+"
        elif kind == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
            given = step["pattern"]
            pattern = given["Regex"] if "Regex" in given else re.escape(given["String"])
        elif kind == "ByteLevel" and step is steps[-1] and not step["add_prefix_space"]:
            pattern = _GPT2 if step["use_regex"] else ""
            if pattern and len(steps) == 2 and steps[0] == {"type": "Digits", "individual_digits": True}:
                cuts, pattern = [], _GPT2_DIGITS
        else:
            return []
        if pattern:
            try:
                cuts.append(Cut("".join(_for_python(pattern))))
            except (ValueError, re.error):
                return []
    return cuts if steps[-1] and steps[-1]["type"] == "ByteLevel" else []


def _for_python(pattern: str) -> Iterator[str]:
    r"""A regular expression of Oniguruma, piece by piece for `re`: classes such as `\p{L}` spelled out.

    Raises:
        ValueError: it has something that might mean something else here.
    """
    inside = False
    for match in re.finditer(r"\\[pP]\{(\w+)\}|\\(.)|\(\?.|\}\+|&&|.", pattern, re.DOTALL):
        piece, category, escaped = match[0], match[1], match[2]
        is_class = category or escaped in ("s", "S")
        if is_class:
            ranges = _ranges(category) if category else _SPACES
            negated = "^" if piece[1] in "PS" else ""
            yield ranges if inside and not negated else f"[{negated}{ranges}]"
        else:
            yield piece
        strange = (
            (inside and (piece == "[" or (is_class and negated)))
            or (not inside and piece in ("$", "^", "."))
            or piece in ("}+", "&&")
            or (piece.startswith("(?") and piece[2] not in ":!=i")
            or (escaped and escaped.isalnum() and escaped not in "rntsS")
        )
        if strange:
            raise ValueError(pattern)
        inside = piece == "[" or (inside and piece != "]")


@cache
def _categories() -> dict[int, str]:
    """The general category of every character of two bytes that has been in Unicode for long, and kept its own:
    others may be new to this Python or to the tokenizer. Two letters are left out that are an `s` and a `k` to
    expressions that ignore case."""
    known = {}
    for code in range(0x10000):
        now, then = unicodedata.category(chr(code)), unicodedata.ucd_3_2_0.category(chr(code))
        if now == then and now not in ("Cn", "Cs", "Co") and code not in (0x17F, 0x212A):
            known[code] = now
    return known


@cache
def _ranges(category: str) -> str:
    """The inside of a character class: all that are of a category, or of one that begins so ("": all)."""
    codes = [code for code, name in _categories().items() if name.startswith(category)]
    if not codes:
        raise ValueError(category)
    starts = [code for before, code in zip([-2, *codes], codes, strict=False) if code != before + 1]
    ends = [code for code, after in zip(codes, [*codes[1:], -2], strict=True) if after != code + 1]
    return "".join(f"\\u{a:04x}-\\u{b:04x}" for a, b in zip(starts, ends, strict=True))


@cache
def _foreign() -> re.Pattern[str]:
    return re.compile(f"[^{_ranges('')}]")


@cache
def _alphabet() -> dict[int, str]:
    """The letter that byte-level tokenizers write for each byte (GPT-2's: printable ones are themselves)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
