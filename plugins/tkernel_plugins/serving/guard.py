"""What every request passes first: keys, and the size of its body."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from typing import Any

from starlette.responses import JSONResponse

from tkernel_plugins.serving.errors import ApiError
from tkernel_plugins.serving.metrics import Metrics
from tkernel_plugins.serving.settings import ServeSettings

LOG = logging.getLogger("tkernel.serve")
OPEN = ("/health",)
"""Paths that need no key."""


class Guard:
    """ASGI middleware: 401 without a key, 413 past the largest body, 500 in OpenAI's form for what is left."""

    def __init__(self, app: Any, settings: ServeSettings, metrics: Metrics) -> None:
        self.app = app
        self.settings = settings
        self.metrics = metrics
        self.keys = tuple(key.encode() for key in settings.api_keys)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, size = time.monotonic(), 0, 0
        refused = complete = False

        async def counted() -> Any:
            nonlocal size, refused, complete
            async with asyncio.timeout(None if complete else self.settings.timeout):
                message = await receive()
            complete = complete or not message.get("more_body", False)
            size += len(message.get("body", b""))
            if size > self.settings.max_body:
                refused = True
                raise self._too_large()
            return message

        async def watched(message: Any) -> None:
            nonlocal status
            if refused:
                # What the application makes of a body that broke off is no answer.
                if not status:
                    status = 413
                    await self._answer(self._too_large(), scope, receive, send, complete)
                return
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._check(scope)
            await self.app(scope, counted, watched)
        except Exception as error:
            if status:
                raise
            if not isinstance(error, ApiError):
                LOG.exception("%s %s failed", scope["method"], scope["path"])
                error = ApiError(500, f"{type(error).__name__}; the server's log has the details")
            status = error.status
            await self._answer(error, scope, receive, send, complete)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            self.metrics.requests.labels(route, status).inc()
            self.metrics.seconds.labels(route).observe(time.monotonic() - started)

    def _check(self, scope: Any) -> None:
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.settings.max_body:
            raise self._too_large()
        if not self.keys or scope["path"] in OPEN or scope["method"] == "OPTIONS":
            return
        given = headers.get(b"authorization", b"")
        token = given[7:].strip() if given[:7].lower() == b"bearer " else b""
        # All keys are compared, each in constant time.
        if not sum(hmac.compare_digest(token, key) for key in self.keys):
            raise ApiError(
                401,
                "a key is needed: `Authorization: Bearer KEY`",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def _answer(self, error: ApiError, scope: Any, receive: Any, send: Any, complete: bool) -> None:
        # Some more of a large body is read: whoever still sends reads no answer.
        left = 0 if complete else 4 * self.settings.max_body
        while error.status == 413 and left > 0 and (message := await receive()).get("more_body"):
            left -= len(message["body"])
        await JSONResponse(error.body, error.status, error.headers)(scope, receive, send)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body has more than {self.settings.max_body} bytes", code="body_too_large")
