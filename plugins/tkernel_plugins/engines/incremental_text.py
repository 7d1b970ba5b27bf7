"""Token ids to text while they arrive, in whole characters only."""

from __future__ import annotations

from typing import Any

UNFINISHED = "\ufffd"
"""What tokenizers decode the first bytes of an unfinished character to."""


class IncrementalText:
    """The text of a growing list of ids. The pieces, joined, are the text of all ids.

    Only the last ids are decoded again, together with those before them that decide about spaces.
    """

    def __init__(self, tokenizer: Any, *, skip_special_tokens: bool = True) -> None:
        self.tokenizer = tokenizer
        self.skip_special_tokens = skip_special_tokens
        self.ids: list[int] = []
        self._context = 0  # ids before `_done` from here on are decoded along
        self._done = 0  # the text of ids before this one was given out

    def add(self, token_id: int) -> str:
        """The text that `token_id` completes; empty while a character is unfinished."""
        self.ids.append(token_id)
        text, known = (
            self._decode(self.ids[self._context :]),
            self._decode(self.ids[self._context : self._done]),
        )
        if len(text) <= len(known) or text.endswith(UNFINISHED):
            return ""
        self._context, self._done = self._done, len(self.ids)
        return text[len(known) :]

    def finish(self) -> str:
        """What was held back; bytes that never became a character are given as U+FFFD."""
        text, known = (
            self._decode(self.ids[self._context :]),
            self._decode(self.ids[self._context : self._done]),
        )
        self._done = len(self.ids)
        return text[len(known) :]

    def _decode(self, ids: list[int]) -> str:
        decoded: str = self.tokenizer.decode(
            ids, skip_special_tokens=self.skip_special_tokens, clean_up_tokenization_spaces=False
        )
        return decoded
