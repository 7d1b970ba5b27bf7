"""What the routes of a server share: the engine and what is known of it."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tkernel.types.engine import Engine, Prompt, Sampling, TokenLogprob
from tkernel.types.rendering import Renderer
from tkernel_plugins.serving.errors import ApiError, as_api_error
from tkernel_plugins.serving.gate import Gate
from tkernel_plugins.serving.metrics import Metrics
from tkernel_plugins.serving.reply_parts import Marks
from tkernel_plugins.serving.settings import ServeSettings

LOG = logging.getLogger("tkernel.serve")
PLACES = 32
"""Requests at a time for an engine that does not say how many it takes (`capacity`)."""


class Service:
    """An engine with its gate, its metrics and its template's marks."""

    def __init__(self, engine: Engine, renderer: Renderer, settings: ServeSettings) -> None:
        self.engine = engine
        self.renderer = renderer
        self.settings = settings
        self.gate = Gate(getattr(engine, "capacity", PLACES), settings.queue)
        self.metrics = Metrics(self.gate)
        self.marks = Marks.of(renderer)
        self.media = getattr(engine, "media", None)
        self.tokenizer: Any = getattr(renderer, "tokenizer", None)
        self.created = int(time.time())
        self.loading = ThreadPoolExecutor(16, thread_name_prefix="tk-images")
        options = getattr(engine, "options", None)
        self.defaults: Sampling = options if isinstance(options, Sampling) else Sampling()

    @property
    def models(self) -> list[str]:
        """The model's name and those of its adapters."""
        return [self.settings.model, *getattr(self.engine, "adapters", ())]

    def adapter(self, model: str) -> str | None:
        """The adapter that `model` names; None for the model as it was loaded. Raises `ApiError` (404)."""
        if model == self.settings.model:
            return None
        if model not in self.models:
            known = ", ".join(self.models)
            raise ApiError(
                404,
                f"there is no model {model!r}; there are: {known}",
                param="model",
                code="model_not_found",
            )
        return model

    def prompt(self, ids: Sequence[int]) -> Prompt:
        """A prompt of ids. Raises `ApiError` for ids that are none."""
        size = len(self.tokenizer) if self.tokenizer is not None else 2**31
        if not ids or max(ids) >= size:
            raise ApiError(400, f"a prompt of ids has some, each below {size}", param="prompt")
        return Prompt(ids=tuple(ids))

    def log_if_ours(self, error: BaseException) -> None:
        """Write an error that is the server's fault into the log."""
        if as_api_error(error).status == 500:
            LOG.error("a reply failed", exc_info=error)

    # -- log-probabilities -------------------------------------------------------------------------

    def chat_logprobs(self, given: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
        """As in a chat's `logprobs.content`; the token that ends a reply is no part of it."""
        return [
            {
                **self._token(one.token_id, one.logprob),
                "top_logprobs": [self._token(token, value) for token, value in one.top],
            }
            for one in given
            if one.token_id not in self.renderer.stop_ids
        ]

    def completion_logprobs(self, given: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
        """As in a completion's `logprobs`; offsets count characters of the reply."""
        said = [one for one in given if one.token_id not in self.renderer.stop_ids]
        tokens = [self._text(one.token_id) for one in said]
        lengths = itertools.accumulate((len(token) for token in tokens[:-1]), initial=offset)
        return {
            "tokens": tokens,
            "token_logprobs": [one.logprob for one in said],
            "top_logprobs": [{self._text(token): value for token, value in one.top} for one in said],
            "text_offset": list(lengths) if tokens else [],
        }

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._text(token)
        # The bytes of a token that is a part of a character are not known here.
        return {
            "token": text,
            "logprob": max(logprob, -9999.0),
            "bytes": None if "\ufffd" in text else list(text.encode()),
        }

    def _text(self, token: int) -> str:
        text: str = self.tokenizer.decode([token]) if self.tokenizer is not None else str(token)
        return text
