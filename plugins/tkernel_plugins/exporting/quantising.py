"""Weights of a few bits in the layouts of GPTQ and AWQ, rounded by auto-round (https://github.com/intel/auto-round).

AutoRound (Cheng et al. 2023, arXiv:2309.05516) learns how each weight is rounded by signed gradient descent on
what a layer gives; without steps it rounds to the nearest.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from tkernel.errors import MissingRequirement, TkError
from tkernel_plugins.exporting.options import ExportOptions

FORMATS = {"gptq": "auto_gptq", "awq": "auto_awq", "auto-round": "auto_round"}
"""Value of `export_quantization_format` -> what auto-round calls it."""

BOUNDS = {8: 0.05, 4: 1.0, 3: 3.0, 2: 10.0}
"""Bits -> largest mean divergence, in nats, of a quantised model from the one that it was made of."""

GROUP = 128
"""Weights that share a scale, at most."""


def check_installed() -> None:
    """Raise `MissingRequirement` where auto-round, or what runs its layouts on a CPU, is not installed."""
    missing = [module for module in ("auto_round", "auto_round_kernel") if find_spec(module) is None]
    if missing:
        raise MissingRequirement(
            f"`export_quantization_bit` needs {' and '.join(missing)}, not installed",
            hint="pip install 'tkernel[quantize]'",
        )


def quantise(folder: Path, options: ExportOptions, windows: Sequence[Sequence[int]]) -> int:
    """Quantise the weights in `folder`, in place of them.

    Args:
        windows: ids to calibrate with, all of one length.

    Returns:
        How many linear layers were quantised; the output layer, and those of odd sizes, stay as they are.

    Raises:
        TkError: no layer of the model can be quantised.
    """
    from auto_round import AutoRound
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logging.getLogger("autoround").setLevel(logging.ERROR)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    quantiser = AutoRound(
        model,
        AutoTokenizer.from_pretrained(folder),
        bits=options.export_quantization_bit,
        group_size=_group_size([part for part in model.modules() if isinstance(part, torch.nn.Linear)]),
        sym=True,
        dataset=[torch.tensor([window]) for window in windows],
        nsamples=len(windows),
        seqlen=len(windows[0]),
        batch_size=min(8, len(windows)),
        iters=options.export_quantization_steps,
        device_map=options.export_device,
    )
    draft, form = folder / "quantised", FORMATS[options.export_quantization_format]
    model, written = quantiser.quantize_and_save(str(draft), format=form)
    count = sum(hasattr(part, "qweight") for part in model.modules())
    if not count:
        raise TkError(f"no layer of {type(model).__name__} can be quantised", hint="Export it in 16 bits.")
    for path in folder.glob("model*.safetensors*"):
        path.unlink()
    for path in Path(written).iterdir():
        if path.name.startswith("model") or path.name == "config.json":
            shutil.move(path, folder / path.name)
    shutil.rmtree(draft)
    return count


def _group_size(layers: Sequence[Any]) -> int:
    """The largest power of two, up to `GROUP`, that divides the widths of most layers; at least 16."""
    widths = [layer.in_features for layer in layers]
    sizes = [size for size in (128, 64, 32, 16) if size <= GROUP]
    return max(sizes, key=lambda size: (sum(width % size == 0 for width in widths), size))
