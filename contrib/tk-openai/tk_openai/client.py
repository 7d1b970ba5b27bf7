"""The engine behind `infer_backend: openai`: one streamed request a conversation, many at a time."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from queue import SimpleQueue
from typing import Any

import openai

from tk_openai import Options
from tk_openai.replies import ServerReplies
from tkernel.errors import TkError
from tkernel.types.bundle import ModelBundle
from tkernel.types.conversation import Conversation
from tkernel.types.engine import Delta, Prompt, Sampling, TokenLogprob
from tkernel.types.rendering import Renderer

EXTRA = ("top_k", "repetition_penalty")
"""What OpenAI's protocol lacks and other servers take; sent only where it is not at its default."""


class RemoteEngine(ServerReplies):
    """Implements `tkernel.types.engine.Engine` with a server.

    Args:
        extra: what is sent beside OpenAI's own fields; without it, `EXTRA` where it is not at its default.

    Raises:
        TkError: nobody answers, or the server does not have the model.
    """

    name = "openai"

    def __init__(
        self,
        renderer: Renderer,
        bundle: ModelBundle | None,
        options: Options,
        *,
        seed: int = 42,
        extra: Callable[[Sampling], dict[str, Any]] | None = None,
    ) -> None:
        self.renderer = renderer
        self.tokenizer = bundle.tokenizer if bundle is not None else None
        self.options = options
        self.seed = seed
        self.extra = extra or _not_at_default
        key = options.openai_token or os.environ.get("OPENAI_API_KEY") or "none"
        self.client = openai.OpenAI(
            base_url=options.openai_base_url, api_key=key, timeout=options.openai_timeout, max_retries=2
        )
        self.model = self._model()
        self._pool = ThreadPoolExecutor(options.openai_requests, thread_name_prefix="tk-openai")
        self._asked = 0
        self._lock = threading.Lock()

    def close(self) -> None:
        """End the requests that are running."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.client.close()

    # -- requests ------------------------------------------------------------------------------------

    def _stream(self, conversations: Sequence[Conversation | Prompt], sampling: Sampling) -> Iterator[Delta]:
        pieces: SimpleQueue[Delta | BaseException | None] = SimpleQueue()
        stopped = threading.Event()
        for place, conversation in enumerate(conversations):
            seed = self._seed(sampling, place)
            self._pool.submit(self._ask, conversation, sampling, seed, place, pieces, stopped)
        waiting = len(conversations)
        try:
            while waiting:
                piece = pieces.get()
                if piece is None:
                    waiting -= 1
                elif isinstance(piece, BaseException):
                    raise self._explained(piece) from piece
                else:
                    yield piece
        finally:
            stopped.set()

    def _seed(self, sampling: Sampling, place: int) -> int:
        """That of the request, else the engine's and the number of the conversation, so that no two are alike."""
        given = getattr(sampling, "seed", None)
        if given is not None:
            return int(given) + place * sampling.n
        with self._lock:
            self._asked += 1
            return self.seed + self._asked

    def _ask(
        self,
        conversation: Conversation | Prompt,
        sampling: Sampling,
        seed: int,
        place: int,
        pieces: SimpleQueue[Delta | BaseException | None],
        stopped: threading.Event,
    ) -> None:
        try:
            if stopped.is_set():
                return
            chat = self.options.openai_mode == "chat" and isinstance(conversation, Conversation)
            ask = self._chat if chat else self._complete
            # Greedy replies are all the same, and vLLM refuses to give more than one of them.
            greedy = not sampling.do_sample or sampling.temperature == 0
            copies, asked = (sampling.n, replace(sampling, n=1)) if greedy else (1, sampling)
            for delta in ask(conversation, asked, seed, place * sampling.n, stopped):
                for number in range(copies):
                    pieces.put(replace(delta, index=delta.index + number))
        except BaseException as error:
            pieces.put(error)
        finally:
            pieces.put(None)

    def _common(self, sampling: Sampling, seed: int) -> dict[str, Any]:
        common: dict[str, Any] = {
            "model": getattr(sampling, "adapter", None) or self.model,
            "temperature": sampling.temperature if sampling.do_sample else 0,
            "n": sampling.n,
            "seed": seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if sampling.do_sample:
            common["top_p"] = sampling.top_p
        if sampling.max_new_tokens:
            common["max_tokens"] = sampling.max_new_tokens
        if sampling.stop:
            common["stop"] = list(sampling.stop)
        extra = self.extra(sampling)
        return common | ({"extra_body": extra} if extra else {})

    def _complete(
        self,
        prompt: Conversation | Prompt,
        sampling: Sampling,
        seed: int,
        first: int,
        stopped: threading.Event,
    ) -> Iterator[Delta]:
        if getattr(sampling, "grammar", None) is not None:
            raise TkError(
                "the engine `openai` holds a schema in chat mode only", hint="Set `openai_mode: chat`."
            )
        if isinstance(prompt, Conversation):
            given: Any = list(self.renderer.prompt_ids(prompt))
        else:
            given = list(prompt.ids) or prompt.text
        words = self._common(sampling, seed)
        # What ends a turn is the template's; a server that was not told would go on.
        words["stop"] = list(dict.fromkeys((*sampling.stop, *self.renderer.stop_words)))
        if sampling.logprobs is not None:
            words["logprobs"] = sampling.logprobs
        yield from self._read(
            self.client.completions.create(prompt=given, **words),
            lambda choice: choice.text or "",
            sampling,
            first,
            stopped,
        )

    def _chat(
        self, conversation: Any, sampling: Sampling, seed: int, first: int, stopped: threading.Event
    ) -> Iterator[Delta]:
        if conversation.tools or any(m.tool_calls or m.role == "tool" for m in conversation.messages):
            raise TkError(
                "in chat mode a server takes calls of tools out of a reply in its own way",
                hint="Set `openai_mode: completions`.",
            )
        words = self._common(sampling, seed)
        if sampling.logprobs is not None:
            words |= {"logprobs": True, "top_logprobs": sampling.logprobs}
        if (schema := getattr(sampling, "grammar", None)) is not None:
            shape = {"name": "reply", "schema": json.loads(schema), "strict": True}
            words["response_format"] = {"type": "json_schema", "json_schema": shape}
        messages: Any = [{"role": m.role, "content": m.content} for m in conversation.messages]
        yield from self._read(
            self.client.chat.completions.create(messages=messages, **words), _said, sampling, first, stopped
        )

    def _read(
        self, answer: Any, text_of: Any, sampling: Sampling, first: int, stopped: threading.Event
    ) -> Iterator[Delta]:
        """The pieces of all replies of one request; each one's last piece comes when all have ended, with the usage."""
        reasons: dict[int, str] = {}
        texts: dict[int, list[str]] = {number: [] for number in range(sampling.n)}
        given: dict[int, list[int]] = {number: [] for number in range(sampling.n)}
        logprobs: dict[int, list[TokenLogprob]] = {number: [] for number in range(sampling.n)}
        prompt_tokens = 0
        with answer:
            for chunk in answer:
                if stopped.is_set():
                    return
                prompt_tokens = chunk.usage.prompt_tokens if chunk.usage else prompt_tokens
                for choice in chunk.choices:
                    number = choice.index
                    text = text_of(choice)
                    texts[number].append(text)
                    given[number] += getattr(choice, "token_ids", None) or ()
                    logprobs[number] += self._logprobs(choice, sampling.logprobs or 0)
                    if choice.finish_reason:
                        reasons[number] = choice.finish_reason
                    if text:
                        yield Delta(first + number, text)
        for number in range(sampling.n):
            reason = reasons.get(number, "length")
            ids = given[number] or self._ids("".join(texts[number]))
            finish = "length" if reason == "length" else "stop"
            yield Delta(first + number, "", tuple(ids), finish, tuple(logprobs[number]), prompt_tokens)

    def _ids(self, text: str) -> list[int]:
        """The ids of a text; none without a tokenizer."""
        return [] if self.tokenizer is None else list(self.tokenizer.encode(text, add_special_tokens=False))

    def _logprobs(self, choice: Any, count: int) -> list[TokenLogprob]:
        """Log-probabilities of a chunk: of `completions` in parallel lists, of `chat` one object a token."""
        found = getattr(choice, "logprobs", None)
        if found is None:
            return []
        if getattr(found, "content", None) is not None:
            return [
                TokenLogprob(
                    self._id(one.token),
                    one.logprob,
                    tuple((self._id(t.token), t.logprob) for t in one.top_logprobs[:count]),
                )
                for one in found.content
            ]
        tops = getattr(found, "top_logprobs", None) or [{}] * len(found.tokens or ())
        return [
            TokenLogprob(
                self._id(token),
                value,
                # A server adds the token itself where it is not among the most likely.
                tuple(sorted(((self._id(t), v) for t, v in (top or {}).items()), key=lambda pair: -pair[1]))[
                    :count
                ],
            )
            for token, value, top in zip(found.tokens or (), found.token_logprobs or (), tops, strict=False)
        ]

    def _id(self, token: str) -> int:
        """The id that a server's text of a token stands for; -1 where it is no one token of ours."""
        if token.startswith("token_id:"):  # vLLM's, where it was asked for them
            return int(token.partition(":")[2])
        ids = self._ids(token)
        return ids[0] if len(ids) == 1 else -1

    # -- errors --------------------------------------------------------------------------------------

    def _model(self) -> str:
        try:
            names = [model.id for model in self.client.models.list()]
        except openai.OpenAIError as error:
            raise self._explained(error) from error
        if not names:
            raise TkError(f"{self.options.openai_base_url} lists no model")
        wanted = self.options.openai_model
        if wanted is not None and wanted not in names:
            raise TkError(
                f"{self.options.openai_base_url} has no model {wanted!r}",
                hint=f"It has {', '.join(names[:8])}: set `openai_model`.",
            )
        return wanted or names[0]

    def _explained(self, error: BaseException) -> BaseException:
        """What went wrong between here and the server, as an error that says what to do."""
        where = self.options.openai_base_url
        if isinstance(error, openai.AuthenticationError):
            return TkError(f"{where} refuses the key", hint="Set OPENAI_API_KEY, or `openai_token`.")
        if isinstance(error, openai.APITimeoutError):
            seconds = self.options.openai_timeout
            return TkError(f"{where} did not answer within {seconds:g} s", hint="Raise `openai_timeout`.")
        if isinstance(error, openai.APIConnectionError):
            return TkError(f"nobody answers at {where}", hint="Start the server, or set `openai_base_url`.")
        if isinstance(error, openai.APIStatusError):
            return TkError(f"{where} answers {error.status_code}: {error.message}")
        return error


def _not_at_default(sampling: Sampling) -> dict[str, Any]:
    """What of `EXTRA` somebody set; greedy replies need no `top_k`."""
    defaults = {each.name: each.default for each in fields(Sampling)}
    names = EXTRA if sampling.do_sample else ("repetition_penalty",)
    return {name: getattr(sampling, name) for name in names if getattr(sampling, name) != defaults[name]}


def _said(choice: Any) -> str:
    return str(choice.delta.content or "")
