"""Replies that satisfy a JSON schema, with llguidance (https://github.com/guidance-ai/llguidance)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from tkernel.errors import DataError, TkError


class Grammars:
    """Compiles JSON schemas for one tokenizer."""

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.stop_ids = tuple(stop_ids)

    def matcher(self, schema: str) -> Matcher:
        """A matcher at the beginning of a reply.

        Args:
            schema: a JSON schema as JSON text.

        Raises:
            TkError: llguidance is not installed, or cannot read this tokenizer.
            DataError: no schema, or one with parts that cannot be held.
        """
        tokens = self._tokens
        from llguidance import LLMatcher

        try:
            # Without free white space, which a small model can go on with for ever.
            grammar = LLMatcher.grammar_from_json_schema(schema, {"whitespace_flexible": False})
        except ValueError as error:
            raise DataError(f"the JSON schema cannot be used: {error}") from error
        made = LLMatcher(tokens, grammar)
        if made.is_error():
            raise DataError(f"the JSON schema cannot be used: {made.get_error()}")
        return Matcher(made)

    @cached_property
    def _tokens(self) -> Any:
        try:
            from llguidance.hf import from_tokenizer
        except ImportError as error:
            raise TkError(
                "replies after a JSON schema need llguidance, which is not installed",
                hint="pip install 'tkernel[serve]'",
            ) from error
        try:
            return from_tokenizer(self.tokenizer, eos_token=list(self.stop_ids))
        except ValueError as error:
            raise TkError(f"replies after a JSON schema are not possible: {error}") from error


class Matcher:
    """Which tokens may come next."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def allowed(self, size: int) -> torch.Tensor:
        """True for every token of a vocabulary of `size` that may come next: `(size,)`."""
        allowed = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8).bool()
        return torch.nn.functional.pad(allowed, (0, max(0, size - len(allowed))))[:size]

    def take(self, token: int) -> None:
        """The token that was chosen."""
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)
