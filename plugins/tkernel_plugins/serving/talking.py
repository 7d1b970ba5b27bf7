"""`/v1/chat/completions` and `/v1/completions`: from a request to an answer, whole or as events."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from tkernel.types.conversation import Conversation, Message, ToolCall
from tkernel.types.engine import Delta, Prompt, RequestSampling, TokenLogprob
from tkernel_plugins.serving.answers import DONE, EventStream, event, unless_gone
from tkernel_plugins.serving.conversations import conversation_of, has_pictures
from tkernel_plugins.serving.errors import ApiError, as_api_error
from tkernel_plugins.serving.images import Images
from tkernel_plugins.serving.pieces import Pieces
from tkernel_plugins.serving.protocol import ChatRequest, CompletionRequest, Request
from tkernel_plugins.serving.reply_parts import ReplyParts, call_dict
from tkernel_plugins.serving.sampling import sampling_of
from tkernel_plugins.serving.service import Service


@dataclass
class Choice:
    """One reply of a chat while it grows."""

    parts: ReplyParts
    name: str
    content: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    reason: str = "length"
    started: bool = False

    def take(self, message: Message) -> dict[str, Any]:
        """Add what is new; as the `delta` of a chunk."""
        delta: dict[str, Any] = {}
        if message.reasoning:
            self.reasoning += message.reasoning
            delta["reasoning_content"] = message.reasoning
        if message.content:
            self.content += message.content
            delta["content"] = message.content
        if message.tool_calls:
            first = len(self.calls)
            self.calls += message.tool_calls
            delta["tool_calls"] = [
                {"index": n, **call_dict(call, n, self.name)}
                for n, call in enumerate(message.tool_calls, start=first)
            ]
        return delta

    @property
    def finish_reason(self) -> str:
        """`tool_calls` where a reply that ended by itself made some."""
        return "tool_calls" if self.calls and self.reason == "stop" else self.reason

    def message(self) -> dict[str, Any]:
        """The whole message."""
        made: dict[str, Any] = {"role": "assistant", "content": self.content or (None if self.calls else "")}
        if self.reasoning:
            made["reasoning_content"] = self.reasoning
        if self.calls:
            made["tool_calls"] = [call_dict(call, n, self.name) for n, call in enumerate(self.calls)]
        return made


class Usage:
    """Tokens of one answer."""

    def __init__(self) -> None:
        self.prompts: dict[int, int] = {}
        self.completion = 0

    def take(self, delta: Delta, n: int) -> None:
        """Count a piece; `n` replies share a prompt."""
        self.completion += len(delta.token_ids)
        if delta.finish_reason:
            self.prompts[delta.index // n] = delta.prompt_tokens

    def body(self) -> dict[str, int]:
        """As OpenAI writes it."""
        prompt = sum(self.prompts.values())
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.completion,
            "total_tokens": prompt + self.completion,
        }


async def chat(service: Service, http: HttpRequest, asked: ChatRequest) -> Response:
    """Answer a chat. Raises `ApiError`."""
    _check_chat(service, asked)
    tools = [] if asked.tool_choice == "none" else asked.tools or []
    load = Images(service.settings).load
    if not has_pictures(asked.messages):
        conversation = conversation_of(asked.messages, tools, load)
    elif service.media is None:
        raise ApiError(400, "this model takes no images", param="messages")
    else:
        # Slow hosts keep threads of their own busy, and nobody else waiting.
        loading = asyncio.get_running_loop().run_in_executor(
            service.loading, conversation_of, asked.messages, tools, load
        )
        conversation = await unless_gone(http, loading)
    sampling = sampling_of(service, asked, tools=bool(tools))
    identity = f"chatcmpl-{uuid.uuid4().hex}"
    choices = [
        Choice(ReplyParts(service.renderer, service.marks, bool(tools)), f"{identity[9:33]}{k}")
        for k in range(sampling.n)
    ]
    answer = Answer(service, http, asked, [conversation], sampling, identity, "chat.completion")

    def chunk(delta: Delta) -> Iterator[dict[str, Any]]:
        choice = choices[delta.index]
        logprobs = service.chat_logprobs(delta.logprobs)
        choice.logprobs += logprobs
        told = [choice.take(message) for message in choice.parts.feed(delta.text)]
        if delta.finish_reason:
            choice.reason = delta.finish_reason
            told += [choice.take(message) for message in choice.parts.finish()]
        if not choice.started:
            choice.started = True
            told.insert(0, {"role": "assistant", "content": ""})
        if logprobs and not told:
            told = [{}]
        for number, one in enumerate(told):
            made = {"index": delta.index, "delta": one, "logprobs": None, "finish_reason": None}
            if asked.logprobs and number == len(told) - 1:
                made["logprobs"] = {"content": logprobs, "refusal": None}
            yield made
        if delta.finish_reason:
            yield {
                "index": delta.index,
                "delta": {},
                "logprobs": None,
                "finish_reason": choice.finish_reason,
            }

    def whole() -> list[dict[str, Any]]:
        return [
            {
                "index": number,
                "message": {**choice.message(), "refusal": None},
                "logprobs": {"content": choice.logprobs, "refusal": None} if asked.logprobs else None,
                "finish_reason": choice.finish_reason,
            }
            for number, choice in enumerate(choices)
        ]

    return await answer.send(chunk, whole)


def _check_chat(service: Service, asked: ChatRequest) -> None:
    if service.settings.reward:
        raise ApiError(400, "this is a reward model: ask /v1/score/evaluation")
    if asked.top_logprobs is not None and not asked.logprobs:
        raise ApiError(400, "`top_logprobs` needs `logprobs: true`", param="top_logprobs")
    if asked.max_tokens is not None and asked.max_completion_tokens not in (None, asked.max_tokens):
        raise ApiError(400, "`max_tokens` and `max_completion_tokens` differ", param="max_tokens")
    if asked.parallel_tool_calls is False:
        raise ApiError(
            400, "how many tools are called is the model's choice here", param="parallel_tool_calls"
        )
    form = asked.response_format
    if form is not None and form.type == "json_schema" and form.json_schema is None:
        raise ApiError(400, "`json_schema` is missing", param="response_format.json_schema")
    if form is not None and form.type != "text" and asked.tools:
        raise ApiError(400, "`response_format` and `tools` exclude each other", param="response_format")


async def complete(service: Service, http: HttpRequest, asked: CompletionRequest) -> Response:
    """Answer a completion. Raises `ApiError`."""
    if service.settings.reward:
        raise ApiError(400, "this is a reward model: ask /v1/score/evaluation")
    prompts = [Prompt(one) if isinstance(one, str) else service.prompt(one) for one in _prompts(asked.prompt)]
    sampling = sampling_of(service, asked, tools=False)
    answer = Answer(service, http, asked, prompts, sampling, f"cmpl-{uuid.uuid4().hex}", "text_completion")
    count = len(prompts) * sampling.n
    texts, reasons = [""] * count, ["length"] * count
    logprobs: list[list[TokenLogprob]] = [[] for _ in range(count)]

    def chunk(delta: Delta) -> Iterator[dict[str, Any]]:
        given = service.completion_logprobs(delta.logprobs, len(texts[delta.index]))
        texts[delta.index] += delta.text
        logprobs[delta.index] += delta.logprobs
        reasons[delta.index] = delta.finish_reason or reasons[delta.index]
        yield {
            "index": delta.index,
            "text": delta.text,
            "logprobs": given if asked.logprobs is not None else None,
            "finish_reason": delta.finish_reason,
        }

    def whole() -> list[dict[str, Any]]:
        return [
            {
                "index": index,
                "text": texts[index],
                "logprobs": service.completion_logprobs(logprobs[index], 0)
                if asked.logprobs is not None
                else None,
                "finish_reason": reasons[index],
            }
            for index in range(count)
        ]

    return await answer.send(chunk, whole)


def _prompts(given: Any) -> list[Any]:
    return [given] if isinstance(given, str) or isinstance(given[0], int) else list(given)


class Answer:
    """Sends the replies to one request, whole or as events."""

    def __init__(
        self,
        service: Service,
        http: HttpRequest,
        asked: Request,
        conversations: Sequence[Conversation | Prompt],
        sampling: RequestSampling,
        identity: str,
        kind: str,
    ) -> None:
        self.service = service
        self.http = http
        self.asked = asked
        self.sampling = sampling
        self.usage = Usage()
        self.started = time.monotonic()
        self.head = {"id": identity, "object": kind, "created": int(time.time()), "model": asked.model}
        seconds = service.settings.timeout
        self.pieces = Pieces(service.engine, service.gate, conversations, sampling, seconds)
        self.headers = {"x-tk-ignored": ", ".join(asked.ignored)} if asked.ignored else {}

    async def send(self, chunk: Any, whole: Any) -> Response:
        """`chunk` makes the choices of chunks from a piece, `whole` the choices of the whole answer."""
        deltas = self._deltas()
        try:
            first = await unless_gone(self.http, anext(deltas))
            if self.asked.stream:
                return EventStream(self._events(first, deltas, chunk), self.headers)
            await unless_gone(self.http, self._collect(first, deltas, chunk))
        except BaseException:
            await deltas.aclose()
            raise
        body = {**self.head, "choices": whole(), "usage": self.usage.body()}
        return JSONResponse(body, headers=self.headers)

    async def _deltas(self) -> AsyncIterator[Delta]:
        """Pieces, counted; the engine stops when this is closed."""
        try:
            async with self.pieces as pieces:
                async for delta in pieces:
                    if not self.usage.completion:
                        self.service.metrics.first.observe(time.monotonic() - self.started)
                    self.usage.take(delta, self.sampling.n)
                    yield delta
        finally:
            usage = self.usage.body()
            self.service.metrics.count(usage["prompt_tokens"], usage["completion_tokens"])

    async def _collect(self, first: Delta, deltas: AsyncIterator[Delta], chunk: Any) -> None:
        list(chunk(first))
        async for delta in deltas:
            list(chunk(delta))

    async def _events(self, first: Delta, deltas: Any, chunk: Any) -> AsyncIterator[str]:
        kind = self.head["object"] + (".chunk" if self.head["object"] == "chat.completion" else "")
        wanted = self.asked.stream_options is not None and self.asked.stream_options.include_usage
        head = {**self.head, "object": kind, **({"usage": None} if wanted else {})}
        try:
            for choice in chunk(first):
                yield event({**head, "choices": [choice]})
            async for delta in deltas:
                for choice in chunk(delta):
                    yield event({**head, "choices": [choice]})
            if wanted:
                yield event({**head, "choices": [], "usage": self.usage.body()})
        except Exception as error:
            self.service.log_if_ours(error)
            yield event(as_api_error(error).body)
            return
        finally:
            await deltas.aclose()
        yield DONE
