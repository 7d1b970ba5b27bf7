"""The keys of a run that belong to data: those of dataset plugins and those of preparation.

Names, types and defaults are LLaMA-Factory's. A value that is not implemented is refused when the
options are made, so that no key is ever accepted and ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tkernel.errors import ConfigError, Problem
from tkernel_plugins.hub_options import HubOptions


def _refuse(problems: list[str]) -> None:
    """Each is told at the line of the first key that it names."""
    if problems:
        raise ConfigError([Problem(problem) for problem in problems])


ACCESS = ("cache_dir", "hf_hub_token", "ms_hub_token", "om_hub_token")
"""Keys that say how a hub is reached, and change no row."""


@dataclass(frozen=True)
class RowOptions(HubOptions):
    """How rows are read; the dataset plugins' options."""

    on_bad_row: Literal["error", "drop"] = "error"
    """`error` stops at bad rows and names them all by file and line; `drop` counts them and goes on."""
    max_samples: int | None = field(default=None, metadata={"ge": 1})
    """Use only the first so many rows of each dataset."""
    streaming: bool = False
    """Read rows while they are trained on, not before; needs `max_steps`, since nobody knows how many there are."""
    ms_hub_token: str | None = None
    """Token for private datasets on ModelScope; None takes the one that its client has."""
    om_hub_token: str | None = None
    """The same for Modelers (openMind)."""


@dataclass(frozen=True)
class PrepareOptions:
    """How rows become ids and labels; the options of stages inherit these."""

    cutoff_len: int = field(default=2048, metadata={"ge": 1})
    """Longest sample in tokens; what is longer is truncated and counted."""
    truncation: Literal["proportional", "keep_start", "keep_end", "split", "drop", "error"] = "proportional"
    """What becomes of a sample that is longer: `proportional` cuts prompt and reply of each turn in
    proportion, as LLaMA-Factory does; `keep_start` and `keep_end` keep that end of it, `split` makes several
    samples of a conversation or text, `drop` counts it as rejected, `error` stops. Media are never cut."""
    train_on_prompt: bool = False
    """Learn prompts too, not only replies."""
    mask_history: bool = False
    """Learn only the last reply of a conversation."""
    val_size: float = field(default=0.0, metadata={"ge": 0})
    """Share of the training data to evaluate on; from 2 up, a number of samples."""
    eval_on_each_dataset: bool = False
    """Report one loss for each dataset of `eval_dataset` instead of one for all."""
    mix_strategy: Literal["concat", "interleave_under", "interleave_over", "interleave_once"] = "concat"
    """`concat`: datasets one after another. The others take a row of each in turn: `interleave_under` until
    the first dataset ends, `interleave_over` until the last one has, rows of the others again meanwhile, and
    `interleave_once` until each row was taken once."""
    interleave_probs: tuple[float, ...] | None = None
    """How often each dataset is drawn, `0.7, 0.3`; unset, they take turns."""
    buffer_size: int = field(default=16384, metadata={"ge": 1})
    """Rows that wait at once while a stream is shuffled; 1 leaves the order of the data."""
    preprocessing_batch_size: int = field(default=1000, metadata={"ge": 1})
    """Rows that are encoded together."""
    preprocessing_num_workers: int | None = field(default=None, metadata={"ge": 1, "free": True})
    """Processes that encode; None and 1 encode in this process, where the tokenizer uses all cores."""
    overwrite_cache: bool = field(default=False, metadata={"free": True})
    """Encode anew even if the cache holds what the run needs."""
    tokenized_path: str | None = None
    """A folder for what was prepared: saved there if it is empty, read if it is the same, else refused."""
    ignore_pad_token_for_loss: bool = True
    """False learns padding too: its labels are the padding token, and the loss depends on how samples are
    put into batches."""
    packing: bool | None = None
    """Join samples to rows of `cutoff_len` tokens; unset, texts are and conversations are not."""
    neat_packing: bool = False
    """Pack, and let each sample see only itself."""
    padding_free: bool = False
    """Join the samples of a micro-batch to one row without padding, each of which sees only itself."""

    def __post_init__(self) -> None:
        problems = []
        if self.val_size > 1 and self.val_size != int(self.val_size):
            problems.append(f"val_size must be a share below 1 or a whole number, not {self.val_size}")
        problems += _mixing_problems(self)
        problems += _packing_problems(self)
        if not self.ignore_pad_token_for_loss and (self.packing or self.neat_packing or self.padding_free):
            problems.append("ignore_pad_token_for_loss: false learns padding, and packed samples have none")
        _refuse(problems)


@dataclass(frozen=True)
class UnpackedOptions(PrepareOptions):
    """Preparation for stages whose samples cannot be joined: pairs, feedback and prompts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        why = "cannot be true in this stage, whose samples come in pairs, with feedback or as prompts; leave it out"
        _refuse([f"{key} {why}" for key in ("packing", "neat_packing", "padding_free") if getattr(self, key)])


def _mixing_problems(options: PrepareOptions) -> list[str]:
    """What is wrong with `interleave_probs`."""
    given = options.interleave_probs
    if given is None:
        return []
    if options.mix_strategy == "concat":
        return ["interleave_probs is for interleaving: set mix_strategy, or leave it out"]
    if any(share < 0 for share in given) or abs(sum(given) - 1) > 1e-6:
        return [f"interleave_probs must be shares that add up to 1, not {', '.join(map(str, given))}"]
    return []


def _packing_problems(options: PrepareOptions) -> list[str]:
    """Contradictions between the keys of packing."""
    problems = []
    packs = options.packing or options.neat_packing
    if options.neat_packing and options.packing is False:
        problems.append("neat_packing: true packs and packing: false does not; keep one of the two")
    if options.padding_free and packs:
        key = "neat_packing" if options.neat_packing else "packing"
        problems.append(
            f"padding_free: true and {key}: true are two ways to save padding; keep one of the two"
        )
    if packs and options.cutoff_len < 2:
        problems.append("cutoff_len must be at least 2 with packing: packed rows hold one token less")
    return problems
