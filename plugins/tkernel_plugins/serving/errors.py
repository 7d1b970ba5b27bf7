"""Errors in the form of OpenAI's protocol."""

from __future__ import annotations

from typing import Any

from tkernel.errors import DataError, TkError


class ApiError(Exception):
    """An answer other than 200.

    Args:
        status: of HTTP.
        message: for the user: what is wrong with the request, or with the server.
        param: the field of the request that is wrong.
        code: a word that programs can compare.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """As OpenAI writes errors."""
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status)
        kind = kind or ("server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def as_api_error(error: BaseException) -> ApiError:
    """What an engine raised as an answer: 400 where the request is at fault, 500 where the server is."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, DataError):
        code = "context_length_exceeded" if "context is" in error.message else None
        return ApiError(400, error.message, code=code)
    if isinstance(error, TkError):
        return ApiError(400, str(error))
    if isinstance(error, TimeoutError):
        return ApiError(504, "the request took longer than this server allows", code="timeout")
    return ApiError(500, f"{type(error).__name__} while replying; the server's log has the details")
