"""The keys that the kernel itself reads."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RunOptions:
    """Which model, data and plugins a run has, and where its result goes."""

    model_name_or_path: str | None = None
    """A folder, a hub id, a `.gguf` file, or `package:name/file` for a file in an installed package."""
    adapter_name_or_path: tuple[str, ...] = ()
    """Folders of adapters of earlier runs, loaded in this order."""
    stage: str = "sft"
    """The stage plugin."""
    finetuning_type: str = "lora"
    """The adapter plugin."""
    template: str | None = None
    """The template plugin; unset: the model's own chat template."""
    infer_backend: str = "huggingface"
    """The engine plugin."""
    dataset: tuple[str, ...] = ()
    """Names of `dataset_info.json`, paths or URLs, to train on."""
    eval_dataset: tuple[str, ...] = ()
    """The same, to evaluate on."""
    dataset_dir: str | dict[str, Any] = "data"
    """The folder of `dataset_info.json`, or what stands in it; `ONLINE` makes every dataset name a hub id,
    `REMOTE:owner/name` reads the file from a dataset repository of the hub."""
    media_dir: str | None = None
    """The folder that paths of images, videos and audio are relative to; unset: `dataset_dir`."""
    output_dir: str | None = None
    """Where checkpoints, logs, the lock and the trace are written."""
    overwrite_output_dir: bool = False
    """Allow an `output_dir` that has results of another run."""
    warm_start: bool | str | None = None
    """Begin a new run from the weights of an earlier one: a checkpoint, or a run's folder (its result if it is
    finished, else its newest checkpoint). True: the run in `output_dir`, and the new one is written beside it."""
    seed: int = field(default=42, metadata={"ge": 0, "le": 4294967295})
    """Of initialisation, shuffling and sampling."""
    stages: tuple[dict[str, Any], ...] = ()
    """A chain of runs in one file; each entry has the keys of one run, over the common ones."""
    plugins: tuple[str, ...] = ()
    """Preferred plugins and active extensions, in the order in which extensions wrap."""

    @property
    def media_folder(self) -> str | None:
        """What paths of media are relative to: `media_dir`, else `dataset_dir` if it is a folder."""
        if not self.media_dir and isinstance(self.dataset_dir, str) and os.path.isdir(self.dataset_dir):
            return self.dataset_dir
        return self.media_dir or None
