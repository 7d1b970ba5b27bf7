"""`infer_backend: openai`: replies through a server that speaks OpenAI's protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tkernel import hookimpl
from tkernel.errors import TkError
from tkernel.types.engine import Engine, Sampling
from tkernel.types.requests import EngineRequest


@dataclass(frozen=True)
class Options(Sampling):
    """Options of `infer_backend: openai`."""

    openai_base_url: str = "http://127.0.0.1:8000/v1"
    """Where the server is."""
    openai_model: str | None = None
    """Its name of the model; None takes the first that it lists."""
    openai_token: str | None = None
    """The server's key; None takes `OPENAI_API_KEY`. Never written into a lock."""
    openai_mode: Literal["completions", "chat"] = "completions"
    """`completions` sends the ids of the prompt as our template renders it; `chat` sends the messages, which the
    server's own template renders."""
    openai_timeout: float = field(default=600.0, metadata={"gt": 0})
    """Seconds that a reply may take."""
    openai_requests: int = field(default=32, metadata={"ge": 1})
    """Requests at the same time; more wait here."""


class OpenAIEngine:
    """Conversations through a server; no weights are loaded here."""

    name = "openai"
    Options = Options
    capabilities = ("stream", "batch", "logprobs")

    @hookimpl
    def generate(self, request: EngineRequest) -> Engine:
        """Find the server and its model.

        Raises:
            TkError: nobody answers at `openai_base_url`, or it does not have the model.
        """
        if request.renderer is None:
            raise TkError(
                "the engine `openai` needs a template", hint="Use `tkernel.pipeline.open_engine(session)`."
            )
        from tk_openai.client import RemoteEngine

        return RemoteEngine(request.renderer, request.bundle, request.options or Options(), seed=request.seed)


ENGINE = OpenAIEngine()
