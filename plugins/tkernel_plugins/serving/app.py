"""The server's routes."""

from __future__ import annotations

import asyncio
import base64
import struct
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from tkernel.errors import TkError
from tkernel.types.engine import Prompt
from tkernel_plugins.serving.answers import Gone, unless_gone
from tkernel_plugins.serving.conversations import conversation_of, has_pictures
from tkernel_plugins.serving.errors import ApiError, as_api_error
from tkernel_plugins.serving.guard import Guard
from tkernel_plugins.serving.images import Images
from tkernel_plugins.serving.protocol import ChatRequest, CompletionRequest, EmbeddingRequest, ScoreRequest
from tkernel_plugins.serving.service import Service
from tkernel_plugins.serving.talking import chat, complete

ERRORS: dict[int | str, Any] = {
    status: {
        "description": "An error in OpenAI's form",
        "content": {"application/json": {"schema": {"type": "object", "required": ["error"]}}},
    }
    for status in (400, 401, 404, 405, 413, 429, 504)
}


def make_app(service: Service) -> FastAPI:
    """The application of a service."""
    app = FastAPI(
        title="tk serve", version=version("tkernel"), responses=ERRORS, docs_url=None, redoc_url=None
    )

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server runs."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(service.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The model and its adapters."""
        return {"object": "list", "data": [_model(service, name) for name in service.models]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """One of them."""
        service.adapter(name)
        return _model(service, name)

    @app.post("/v1/chat/completions", response_model=None)
    async def chat_completions(asked: ChatRequest, http: Annotated[Request, Depends(_http)]) -> Response:
        """Reply to a conversation."""
        return await chat(service, http, asked)

    @app.post("/v1/completions", response_model=None)
    async def completions(asked: CompletionRequest, http: Annotated[Request, Depends(_http)]) -> Response:
        """Go on from a text."""
        return await complete(service, http, asked)

    @app.post("/v1/embeddings")
    async def embeddings(asked: EmbeddingRequest, http: Annotated[Request, Depends(_http)]) -> dict[str, Any]:
        """A vector for each text."""
        return await _embed(service, http, asked)

    @app.post("/v1/score/evaluation")
    async def score(asked: ScoreRequest, http: Annotated[Request, Depends(_http)]) -> dict[str, Any]:
        """A reward for each text or conversation."""
        return await _score(service, http, asked)

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> Response:
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(TkError)
    @app.exception_handler(TimeoutError)
    async def other_error(_: Request, error: Exception) -> Response:
        made = as_api_error(error)
        return JSONResponse(made.body, made.status)

    @app.exception_handler(Gone)
    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: Exception) -> Response:
        return Response(status_code=499)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        made = ApiError(error.status_code, str(error.detail))
        return JSONResponse(made.body, error.status_code, dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def wrong_request(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        message = f"{place}: {first['msg']}" if place else str(first["msg"])
        code = "unknown_field" if first["type"] == "extra_forbidden" else None
        return JSONResponse(ApiError(400, message, param=place or None, code=code).body, 400)

    app.add_middleware(Guard, settings=service.settings, metrics=service.metrics)
    if service.settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(service.settings.cors),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
        )
    return app


def _http(request: Request) -> Request:
    return request


def _model(service: Service, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": service.created, "owned_by": "tk"}


async def _embed(service: Service, http: Request, asked: EmbeddingRequest) -> dict[str, Any]:
    """Raises `ApiError`: the engine has no embeddings, or the request is wrong."""
    if service.adapter(asked.model) is not None or not hasattr(service.engine, "embed"):
        raise ApiError(400, f"{asked.model} has no embeddings here", param="model")
    given = asked.input
    many: Any = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    texts = [one if isinstance(one, str) else service.prompt(one).ids for one in many]
    made = await _in_thread(service, http, service.engine.embed, texts)
    data = [
        {"object": "embedding", "index": n, "embedding": _written(vector, asked.encoding_format)}
        for n, (vector, _) in enumerate(made)
    ]
    tokens = sum(count for _, count in made)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    service.metrics.count(tokens, 0)
    return {"object": "list", "data": data, "model": asked.model, "usage": usage}


def _written(vector: list[float], form: str | None) -> list[float] | str:
    if form != "base64":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


async def _score(service: Service, http: Request, asked: ScoreRequest) -> dict[str, Any]:
    """Raises `ApiError`: no reward model, or the request is wrong."""
    if service.adapter(asked.model) is not None or not service.settings.reward:
        raise ApiError(400, f"{asked.model} is no reward model", param="model")
    if any(has_pictures(one) for one in asked.messages if not isinstance(one, str)):
        raise ApiError(400, "conversations with pictures are not scored", param="messages")
    load = Images(service.settings).load
    given: list[Any] = [
        Prompt(one) if isinstance(one, str) else conversation_of(one, [], load, scored=True)
        for one in asked.messages
    ]
    scorer: Any = service.engine
    scores = await _in_thread(service, http, scorer.score, given, asked.max_length)
    return {
        "object": "score.evaluation",
        "id": f"scoreval-{service.created}",
        "model": asked.model,
        "scores": scores,
    }


async def _in_thread(service: Service, http: Request, work: Any, *arguments: Any) -> Any:
    """What `work` returns, in a thread, with a place at the gate."""

    async def wait() -> Any:
        await service.gate.enter()
        try:
            return await asyncio.to_thread(work, *arguments)
        finally:
            service.gate.leave()

    async with asyncio.timeout(service.settings.timeout):
        return await unless_gone(http, wait())
