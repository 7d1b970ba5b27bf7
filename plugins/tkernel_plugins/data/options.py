"""The keys of a run that belong to data: those of dataset plugins and those of preparation.

Names, types and defaults are LLaMA-Factory's. A value that is not implemented is refused when the
options are made, so that no key is ever accepted and ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


def _refuse(problems: list[str]) -> None:
    if problems:
        raise ValueError("; ".join(problems))


@dataclass(frozen=True)
class RowOptions:
    """How rows are read; the dataset plugins' options."""

    on_bad_row: Literal["error", "drop"] = "error"
    """`error` stops at bad rows and names them all by file and line; `drop` counts them and goes on."""
    max_samples: int | None = field(default=None, metadata={"ge": 1})
    """Use only the first so many rows of each dataset."""
    streaming: bool = False
    """Only false: every dataset is read whole."""

    def __post_init__(self) -> None:
        problems = []
        if self.streaming:
            problems.append("streaming: true is not supported; leave it out, datasets are read whole")
        _refuse(problems)


@dataclass(frozen=True)
class PrepareOptions:
    """How rows become ids and labels; the options of stages inherit these."""

    cutoff_len: int = field(default=2048, metadata={"ge": 1})
    """Longest sample in tokens; what is longer is truncated and counted."""
    truncation: Literal["proportional"] = "proportional"
    """`proportional` cuts prompt and reply of each turn in proportion, as LLaMA-Factory does."""
    train_on_prompt: bool = False
    """Learn prompts too, not only replies."""
    mask_history: bool = False
    """Learn only the last reply of a conversation."""
    val_size: float = field(default=0.0, metadata={"ge": 0})
    """Share of the training data to evaluate on; from 2 up, a number of samples."""
    eval_on_each_dataset: bool = False
    """Report one loss for each dataset of `eval_dataset` instead of one for all."""
    mix_strategy: Literal["concat", "interleave_under", "interleave_over", "interleave_once"] = "concat"
    """Only `concat`: datasets one after another."""
    preprocessing_batch_size: int = field(default=1000, metadata={"ge": 1})
    """Rows that are encoded together."""
    preprocessing_num_workers: int | None = field(default=None, metadata={"ge": 1})
    """Processes that encode; None and 1 encode in this process, where the tokenizer uses all cores."""
    overwrite_cache: bool = False
    """Encode anew. Nothing is cached between runs, so either value does."""
    ignore_pad_token_for_loss: bool = True
    """Only true: padding is never learned."""
    packing: bool | None = None
    """Only false: one sample a row."""
    neat_packing: bool = False
    """Only false: one sample a row."""

    def __post_init__(self) -> None:
        problems = []
        if self.val_size > 1 and self.val_size != int(self.val_size):
            problems.append(f"val_size must be a share below 1 or a whole number, not {self.val_size}")
        if self.mix_strategy != "concat":
            problems.append(f"mix_strategy: {self.mix_strategy} is not supported; use concat")
        if self.packing:
            problems.append("packing: true is not supported; leave it out")
        if self.neat_packing:
            problems.append("neat_packing: true is not supported; leave it out")
        if not self.ignore_pad_token_for_loss:
            problems.append("ignore_pad_token_for_loss: false is not supported; padding is never learned")
        _refuse(problems)
