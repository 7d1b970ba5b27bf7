"""Text that remembers which of its characters came out of the data."""

from __future__ import annotations

from dataclasses import dataclass

from tkernel.types.rendering import Segment


@dataclass(frozen=True, slots=True)
class Text:
    """Characters and the ranges `(start, end)` among them that were typed by somebody.

    Adding a `str` adds the template's own text. `Text.of_data` makes typed text.
    """

    text: str = ""
    typed: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of_data(cls, text: str, own: tuple[tuple[int, int], ...] = ()) -> Text:
        """Typed text, except for the ranges `own`."""
        if not own:
            return cls(text, ((0, len(text)),) if text else ())
        typed = []
        position = 0
        for start, end in (*sorted(own), (len(text), len(text))):
            if start > position:
                typed.append((position, start))
            position = max(position, end)
        return cls(text, tuple(typed))

    def __add__(self, other: Text | str) -> Text:
        if isinstance(other, str):
            return Text(self.text + other, self.typed)
        if not self.text:
            return other
        return Text(self.text + other.text, self.typed + _shifted(other.typed, len(self.text)))

    def __radd__(self, other: str) -> Text:
        return Text(other) + self

    def __bool__(self) -> bool:
        return bool(self.text)

    def part(self, start: int, end: int) -> Text:
        """The characters from `start` to `end`."""
        clipped = ((max(a, start) - start, min(b, end) - start) for a, b in self.typed)
        return Text(self.text[start:end], tuple((a, b) for a, b in clipped if a < b))

    def without_leading(self, characters: str) -> Text:
        """Like `str.lstrip`."""
        return self.part(len(self.text) - len(self.text.lstrip(characters)), len(self.text))

    def segment(self, role: str, before: str = "", after: str = "") -> Segment:
        """The text as one segment, between two texts of the template."""
        return Segment(before + self.text + after, role, typed=_shifted(self.typed, len(before)))


def _shifted(typed: tuple[tuple[int, int], ...], by: int) -> tuple[tuple[int, int], ...]:
    return tuple([(start + by, end + by) for start, end in typed]) if by else typed


def join(separator: str, texts: list[Text]) -> Text:
    """Like `str.join`; the separator is the template's own text."""
    joined = Text()
    for number, text in enumerate(texts):
        joined = joined + (separator if number else "") + text
    return joined
