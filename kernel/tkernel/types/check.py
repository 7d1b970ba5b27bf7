"""What a plugin's `check` gets: all that is known of a run before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from tkernel.config.options import RunOptions
from tkernel.hookspecs import KINDS
from tkernel.types.facts import ModelFacts


@dataclass(frozen=True)
class CheckRequest:
    """A planned run.

    `options` is the plugin's own bound `Options` instance (None if it declares none), `arguments` are the
    training arguments that were set, in their types.
    """

    options: Any = None
    run: RunOptions = field(default_factory=RunOptions)
    """The kernel's own options: `output_dir`, `adapter_name_or_path`, ..."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Every key that somebody set, in any layer, in its type: what is not here has its default."""
    facts: ModelFacts | None = None
    """None if the model cannot be told, which is an error of its own."""
    train: tuple[str, ...] = ()
    """Names of the datasets to train on; `dataset` for rows in memory."""
    eval: tuple[str, ...] = ()
    """Names of the datasets to evaluate on; `eval_dataset` for rows in memory."""
    calls: Collection[str] = tuple(KINDS)
    """Kinds of plugins that will be called: without `stage` nothing will be trained."""
    coming: Mapping[str, bool] = field(default_factory=dict)
    """Folders that earlier stages of a chain will write, which are not missing -> whether for an adapter."""
