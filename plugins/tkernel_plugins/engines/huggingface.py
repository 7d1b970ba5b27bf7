"""Engine `huggingface`: replies by transformers' models, many at once."""

from __future__ import annotations

from dataclasses import dataclass, field

from tkernel import hookimpl
from tkernel.errors import TkError
from tkernel.types.engine import Engine, Sampling
from tkernel.types.requests import EngineRequest


@dataclass(frozen=True)
class Options(Sampling):
    """Options of `infer_backend: huggingface`: how replies are drawn when a call does not say."""

    max_length: int = 1024
    """Longest prompt and reply together, in tokens; used where `max_new_tokens` is 0."""
    max_batch: int = field(default=32, metadata={"ge": 1})
    """Replies that are generated together; more wait until one of them ends."""


class HuggingFaceEngine:
    """The bundle in memory, streamed; requests of many callers join one batch, adapters are switched by request."""

    name = "huggingface"
    Options = Options
    capabilities = ("stream", "batch", "bundle", "media", "adapters", "logprobs", "grammar", "embed")

    @hookimpl
    def generate(self, request: EngineRequest) -> Engine:
        """Start the engine on `request.bundle`."""
        if request.bundle is None or request.renderer is None:
            raise TkError(
                "the engine `huggingface` talks with a model in memory, and this request brings none",
                hint="Use `tkernel.pipeline.open_engine(session)`, which loads the model and its template.",
            )
        from tkernel_plugins.engines.huggingface_generation import TransformersEngine

        return TransformersEngine(
            request.bundle,
            request.renderer,
            request.options or Options(),
            media=request.media,
            seed=request.seed,
        )


ENGINE = HuggingFaceEngine()
