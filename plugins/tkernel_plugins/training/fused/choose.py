"""Whether a model is trained with what this folder has, found out by trying it."""

from __future__ import annotations

from typing import Any

import torch

from tkernel_plugins.training.fused import attention
from tkernel_plugins.training.fused.apply import fuse
from tkernel_plugins.training.fused.forward import FusedForward, Wanted
from tkernel_plugins.training.fused.model import IGNORED, SplitHead
from tkernel_plugins.training.losses import token_loss

PIECE = 512
"""Tokens to which samples are joined on a CPU: matrix products gain nothing from more, and it costs memory."""

WHOLE = 2**30
"""On a GPU all samples of a micro-batch are joined: how much it holds at once is what the user chose."""

TRIAL = (7, 4)
"""Tokens of the samples of the trial."""

SPREAD = ("deepspeed", "fsdp", "torch_compile", "use_liger_kernel")
"""Training arguments with which something else takes hold of the model's forward or weights."""


def fused_forward(model: Any, arguments: Any, *, longest: int | None) -> FusedForward | str:
    """The forward to train `model` with, installed; or why it has to be the model's own.

    On a CPU everything is done that agrees. On a GPU the model's own kernels stay, of attention too: only the
    output layer is computed with its loss, and samples are joined where attention is told of their borders.

    Args:
        model: as it will be trained, adapters included, on its device.
        arguments: transformers' training arguments.
        longest: most tokens of a sample; None where that is not known.
    """
    for name in SPREAD:
        if getattr(arguments, name, None):
            return f"`{name}` is set"
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        return "the adapter puts tokens before the sample"
    split = SplitHead.of(model)
    if split is None:
        return "its loss is not the cross entropy of one product of hidden states and output weights"
    trial = _Trial(split)
    expected = trial.loss(model)
    on_cpu = next(split.model.parameters()).device.type == "cpu"
    before = split.model.config._attn_implementation
    fused = FusedForward(split, longest=0, by_row=on_cpu)
    if _keeps_apart(split, longest, on_cpu):
        fused.longest = PIECE if on_cpu else WHOLE
        if on_cpu:
            split.model.set_attn_implementation(attention.NAME)
            fused.undo_attention = lambda: split.model.set_attn_implementation(before)
    if on_cpu:
        fused.parts = fuse(model)
    fused.install()
    tolerance = 1e-4 if split.head.weight.dtype in (torch.float32, torch.float64) else 2e-2
    if abs(trial.loss(model, fused=True) - expected) > tolerance * abs(expected):
        fused.undo()
        return "its loss on two random samples is another"
    return fused


def _keeps_apart(split: SplitHead, longest: int | None, on_cpu: bool) -> bool:
    """Whether samples of one row can be kept apart by position ids that start again."""
    config = split.model.config
    if config.get_text_config() is not config:
        return False  # images may be seen from both sides, and have positions of several dimensions
    if not on_cpu:
        return "flash" in str(config._attn_implementation)
    attention.register()
    return attention.applies_to(config, longest or WHOLE)


class _Trial:
    """Two random samples, one of them padded."""

    def __init__(self, split: SplitHead) -> None:
        device, size = split.head.weight.device, split.head.weight.shape[0]
        ids = torch.randint(size, (len(TRIAL), max(TRIAL)), generator=torch.Generator().manual_seed(0))
        mask = torch.arange(max(TRIAL))[None] < torch.tensor(TRIAL)[:, None]
        self.labels = ids.masked_fill(~mask, IGNORED).to(device)
        self.inputs = {"input_ids": ids.to(device), "attention_mask": mask.long().to(device)}
        self.items = torch.tensor(float(sum(TRIAL) - len(TRIAL)), device=device)

    def loss(self, model: Any, *, fused: bool = False) -> float:
        """The mean loss of the samples, in eval mode."""
        modes = {part: part.training for part in model.modules()}
        model.eval()
        try:
            with torch.no_grad():
                if fused:
                    loss = model(**self.inputs, labels=self.labels, wanted=Wanted(self.items))["loss"]
                else:
                    loss = token_loss(model(**self.inputs, use_cache=False), self.labels, self.items)
        finally:
            for part, training in modes.items():
                part.training = training
        return float(loss)
