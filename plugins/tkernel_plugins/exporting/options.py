"""The keys of `tk export`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class ExportOptions:
    """What is written where. Names, types and defaults are LLaMA-Factory's except where a field says so."""

    export_dir: str | None = None
    """The folder of the exported model; it must be empty or not be there, see `export_overwrite`."""
    export_size: int = field(default=5, metadata={"ge": 1})
    """Largest file of weights, in GB."""
    export_device: Literal["cpu", "auto"] = "cpu"
    """Where adapters are merged: `auto` takes the accelerator."""
    export_quantization_bit: Literal[8, 4, 3, 2] | None = None
    """Quantise the merged model to so many bits, with auto-round (`pip install 'tkernel[quantize]'`)."""
    export_quantization_dataset: str | None = None
    """The dataset or file to quantise with; unset: `dataset`."""
    export_quantization_nsamples: int = field(default=128, metadata={"ge": 1})
    """Samples of it, at most."""
    export_quantization_maxlen: int = field(default=1024, metadata={"ge": 1})
    """Tokens of a sample."""
    export_quantization_format: Literal["gptq", "awq", "auto-round"] = "gptq"
    """Ours: the layout of the weights; `awq` has 4 bits."""
    export_quantization_steps: int = field(default=200, metadata={"ge": 0})
    """Ours: steps in which the rounding of each layer is learned; 0 rounds to the nearest."""
    export_legacy_format: bool = False
    """Pickled weights are never written; true is refused."""
    export_hub_model_id: str | None = None
    """`owner/name` on the hub to which the folder is uploaded, too."""
    export_hub_private: bool = True
    """Ours: a repository that is made for it is private."""
    export_overwrite: bool = False
    """Ours: replace what `export_dir` holds, if that is an export of ours."""
    export_bound: float | None = field(default=None, metadata={"gt": 0})
    """Ours: with `--verify`, the largest mean divergence in nats; unset: 1e-6 in float32, 1e-2 in 16 bits;
    quantised to 8, 4, 3 and 2 bits 0.05, 1, 3 and 10. Of a reward model for classification, the largest
    mean difference of scores; unset: 1e-4 in float32, 0.1 in 16 bits."""

    def __post_init__(self) -> None:
        if self.export_legacy_format:
            raise ValueError("export_legacy_format: true would write pickles; safetensors are always written")
        if self.export_quantization_format == "awq" and self.export_quantization_bit not in (None, 4):
            raise ValueError("export_quantization_format: awq has 4 bits; set export_quantization_bit: 4")
