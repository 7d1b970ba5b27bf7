"""`infer_backend: openvino`: replies through OpenVINO GenAI."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from tkernel import hookimpl
from tkernel.errors import TkError
from tkernel.types.engine import Engine, Sampling
from tkernel.types.requests import EngineRequest

CANNOT = {
    "num_beams": "its beams come at the end of a reply, not piece by piece",
    "logprobs": "it gives the log-probability of the token that it chose, and no others",
    "grammar": "its grammars need a tokenizer of OpenVINO's own",
}
"""Key of what is asked for -> why this engine refuses it; `logprobs: 0` it can do."""


@dataclass(frozen=True)
class Options(Sampling):
    """Options of `infer_backend: openvino`."""

    max_length: int = 1024
    """Longest prompt and reply together, in tokens; used where `max_new_tokens` is 0."""
    openvino_device: str = "CPU"
    """Where it runs: `CPU`, `GPU` (Intel's), `AUTO`."""
    openvino_precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the arithmetic; `auto` is float32 if `infer_dtype` says so, else OpenVINO's choice."""
    openvino_max_batch: int = field(default=256, metadata={"ge": 1})
    """Replies that are generated together; more wait until one of them ends."""
    openvino_cache_size: int = field(default=0, metadata={"ge": 0})
    """Gigabytes for keys and values; 0 lets them grow."""
    openvino_config: dict[str, Any] | None = None
    """Further properties of the device, `{"INFERENCE_NUM_THREADS": 8}`."""


class OpenVino:
    """OpenVINO GenAI in this process: a GGUF file, a folder with `openvino_model.xml`, or a checkpoint that is converted."""

    name = "openvino"
    Options = Options
    capabilities = ("stream", "batch", "logprobs")
    contract: ClassVar = {"cannot": CANNOT}

    @hookimpl
    def generate(self, request: EngineRequest) -> Engine:
        """Load the model, with its adapters merged; a checkpoint is converted once.

        Raises:
            TkError: OpenVINO GenAI is not installed, or cannot run this model.
        """
        if request.renderer is None or request.facts is None or request.bundle is None:
            raise TkError(
                "the engine `openvino` needs a model on disk, its tokenizer and a template",
                hint="Use `tkernel.pipeline.open_engine(session)`.",
            )
        try:
            from tk_openvino.engine import OpenVinoEngine
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ("openvino", "openvino_genai"):
                raise
            raise TkError(
                f"the engine `openvino` needs {error.name}, which is not installed",
                hint="pip install ./contrib/tk-openvino",
            ) from error
        return OpenVinoEngine(request, request.options or Options())


ENGINE = OpenVino()
