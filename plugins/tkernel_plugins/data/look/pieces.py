"""What a token looks like: its text where it is text, its bytes where it is part of a character."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

_NAMED = {"\n": "⏎", "\t": "⇥", "\r": "␍", "\x7f": "␡"}


class Pieces:
    """Token ids as text, one by one.

    Args:
        tokenizer: a `transformers` tokenizer, or anything with `convert_ids_to_tokens` or `decode`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._byte_level = _is_byte_level(tokenizer)
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._added = {number: token.content for number, token in added.items()}
        self._known: dict[int, str] = {}

    def __call__(self, token_id: int) -> str:
        """The text of a token, its leading space included.

        Bytes that are no whole character are written `<0xE4>`, as vocabularies do; an id outside the vocabulary is written
        `<no token 123>`.
        """
        if token_id not in self._known:
            self._known[token_id] = self._added.get(token_id) or self._text(token_id)
        return self._known[token_id]

    def text(self, ids: list[int]) -> str:
        """Several tokens as one text."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _text(self, token_id: int) -> str:
        convert = getattr(self._tokenizer, "convert_ids_to_tokens", None)
        if convert is None:
            return str(self._tokenizer.decode([token_id]))
        try:
            token = convert(token_id)
        except (IndexError, KeyError, OverflowError):
            token = None
        if token is None:
            return f"<no token {token_id}>"
        if isinstance(token, bytes):
            return _spelled(token)
        if not self._byte_level:
            return str(token).replace("▁", " ")
        alphabet = _alphabet()
        if not all(character in alphabet for character in token):
            return str(token)
        return _spelled(bytes(alphabet[character] for character in token))


def visible(text: str, *, spaces: bool = False) -> str:
    """`text` on one line, with nothing in it that a terminal or a browser acts on.

    Control characters get their pictures (`␛`), line breaks `⏎`; what has no width or turns the direction of
    writing is written as its code; a combining mark gets a circle to stand on. With `spaces`, a space is `·`.
    """
    return "".join(_visible(character, spaces) for character in text)


@cache
def _visible(character: str, spaces: bool) -> str:
    if character == " ":
        return "·" if spaces else " "
    if character in _NAMED:
        return _NAMED[character]
    if ord(character) < 32:
        return chr(0x2400 + ord(character))
    if unicodedata.combining(character):
        return "◌" + character
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


def _spelled(raw: bytes) -> str:
    """Bytes as text, those of no whole character as `<0xE4>`."""
    text = raw.decode("utf-8", errors="surrogateescape")
    return "".join(f"<0x{ord(c) - 0xDC00:02X}>" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in text)


def _is_byte_level(tokenizer: Any) -> bool:
    """Whether the vocabulary spells bytes as letters, as GPT-2's does."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return "ByteLevel" in repr(getattr(backend, "decoder", ""))
    return hasattr(tokenizer, "byte_decoder")


@cache
def _alphabet() -> dict[str, int]:
    """The letter that GPT-2's vocabulary writes for a byte -> the byte."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}
