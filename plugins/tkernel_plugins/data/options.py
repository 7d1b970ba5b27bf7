"""The keys of a run that belong to data: those of dataset plugins and those of preparation.

Names, types and defaults are LLaMA-Factory's. A value that is not implemented is refused when the
options are made, so that no key is ever accepted and ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


def _refuse(problems: list[str]) -> None:
    if problems:
        raise ValueError("; ".join(problems))


@dataclass(frozen=True)
class RowOptions:
    """How rows are read; the dataset plugins' options."""

    on_bad_row: Literal["error", "drop"] = "error"
    """`error` stops at bad rows and names them all by file and line; `drop` counts them and goes on."""
    max_samples: int | None = None
    """Use only the first so many rows of each dataset."""
    streaming: bool = False
    """Only false: every dataset is read whole."""

    def __post_init__(self) -> None:
        problems = []
        if self.max_samples is not None and self.max_samples < 1:
            problems.append(f"max_samples must be at least 1, not {self.max_samples}")
        if self.streaming:
            problems.append("streaming: true is not supported; leave it out, datasets are read whole")
        _refuse(problems)


@dataclass(frozen=True)
class PrepareOptions:
    """How rows become ids and labels; the options of stages inherit these."""

    cutoff_len: int = 2048
    """Longest sample in tokens; what is longer is truncated and counted."""
    truncation: Literal["proportional"] = "proportional"
    """`proportional` cuts prompt and reply of each turn in proportion, as LLaMA-Factory does."""
    train_on_prompt: bool = False
    """Learn prompts too, not only replies."""
    mask_history: bool = False
    """Learn only the last reply of a conversation."""
    val_size: float = 0.0
    """Share of the training data to evaluate on; from 2 up, a number of samples."""
    eval_on_each_dataset: bool = False
    """Report one loss for each dataset of `eval_dataset` instead of one for all."""
    mix_strategy: Literal["concat", "interleave_under", "interleave_over", "interleave_once"] = "concat"
    """Only `concat`: datasets one after another."""
    preprocessing_batch_size: int = 1000
    """Rows that are encoded together."""
    preprocessing_num_workers: int | None = None
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
        if self.cutoff_len < 1:
            problems.append(f"cutoff_len must be at least 1, not {self.cutoff_len}")
        if self.val_size < 0 or (self.val_size > 1 and self.val_size != int(self.val_size)):
            problems.append(f"val_size must be a share below 1 or a whole number, not {self.val_size}")
        if self.preprocessing_batch_size < 1:
            problems.append(
                f"preprocessing_batch_size must be at least 1, not {self.preprocessing_batch_size}"
            )
        if self.preprocessing_num_workers is not None and self.preprocessing_num_workers < 1:
            problems.append(
                f"preprocessing_num_workers must be at least 1, not {self.preprocessing_num_workers}"
            )
        if self.mix_strategy != "concat":
            problems.append(f"mix_strategy: {self.mix_strategy} is not supported; use concat")
        if self.packing:
            problems.append("packing: true is not supported; leave it out")
        if self.neat_packing:
            problems.append("neat_packing: true is not supported; leave it out")
        if not self.ignore_pad_token_for_loss:
            problems.append("ignore_pad_token_for_loss: false is not supported; padding is never learned")
        _refuse(problems)
