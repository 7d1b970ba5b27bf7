"""`infer_backend: vllm`: replies through vLLM, which runs in a process and an environment of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tkernel import hookimpl
from tkernel.errors import TkError
from tkernel.types.engine import Engine, Sampling
from tkernel.types.requests import EngineRequest


@dataclass(frozen=True)
class Options(Sampling):
    """Options of `infer_backend: vllm`; names, types and defaults are LLaMA-Factory's except where a field says so."""

    vllm_maxlen: int = field(default=4096, metadata={"ge": 1})
    """Longest prompt and reply together, in tokens."""
    vllm_gpu_util: float = field(default=0.7, metadata={"gt": 0, "le": 1})
    """Share of a GPU's memory that vLLM takes."""
    vllm_enforce_eager: bool = False
    """Do not compile: starts sooner, and is slower then."""
    vllm_max_lora_rank: int = field(default=32, metadata={"ge": 1})
    """Largest rank of an adapter."""
    vllm_config: dict[str, Any] | None = None
    """Further options of vLLM's server, `{"max-num-seqs": 64}`."""
    vllm_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Ours: precision; `auto` is float32 if `infer_dtype` says so, else vLLM's choice, bfloat16 for most checkpoints."""
    vllm_python: str | None = None
    """Ours: the Python of the environment that has vLLM; None takes `TK_VLLM_PYTHON`, else this one."""
    vllm_start_timeout: float = field(default=600.0, metadata={"gt": 0})
    """Ours: seconds that starting may take."""


class Vllm:
    """vLLM's server on loopback, started and watched by this process; no weights are loaded here."""

    name = "vllm"
    Options = Options
    capabilities = ("stream", "batch", "logprobs")

    @hookimpl
    def generate(self, request: EngineRequest) -> Engine:
        """Start vLLM on the model, with its adapter.

        Raises:
            TkError: vLLM is not found, does not start, or cannot serve this model or adapter.
        """
        if request.renderer is None or request.facts is None:
            raise TkError(
                "the engine `vllm` needs a model and a template", hint="Use `tkernel.pipeline.open_engine`."
            )
        from tk_vllm.engine import VllmEngine

        return VllmEngine(request, request.options or Options())


ENGINE = Vllm()
