"""The argument of each hook: frozen and typed, so that a new field never breaks a plugin.

`options` is always the provider's own `Options` instance, bound and validated (None if the plugin
declares none).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tkernel.types.bundle import ModelBundle
from tkernel.types.dataset import DatasetEntry, DatasetReport, LoadedDataset
from tkernel.types.engine import Engine
from tkernel.types.facts import ModelFacts
from tkernel.types.media import MediaProcessor
from tkernel.types.rendering import Renderer
from tkernel.types.slots import Slots


@dataclass(frozen=True)
class ModelRequest:
    """Load the model that `facts` describes.

    Slots: `load_kwargs`, a dict merged into the keyword arguments of `from_pretrained`.
    """

    facts: ModelFacts
    options: Any = None
    role: str = "policy"
    trainable: bool = True
    """False for inference, and for models that only score."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Training arguments that decide on precision and device: `bf16`, `fp16`, `use_cpu`, ..."""
    seed: int = 42
    weights: bool = True
    """False asks for tokenizer and processor only: the bundle's `module` may be None."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The resolved flat configuration: every key that somebody set, in its type."""
    slots: Slots = field(default_factory=partial(Slots, "load_model", once=("load_kwargs",)), compare=False)


@dataclass(frozen=True)
class AdapterRequest:
    """Change the bundle: freeze, inject, resume.

    `adapters` are folders of adapters to load, in order (`adapter_name_or_path`). `new_tokens` are
    ids that the template added: their embeddings must be trained and saved.
    """

    options: Any = None
    adapters: tuple[str, ...] = ()
    trainable: bool = True
    new_tokens: tuple[int, ...] = ()
    lora_targets: tuple[str, ...] = ()
    """What the model plugin names as its linear layers; empty if it does not say."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 42
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The resolved flat configuration: every key that somebody set, in its type."""
    slots: Slots = field(default_factory=partial(Slots, "adapt"), compare=False)


@dataclass(frozen=True)
class DatasetRequest:
    """Read one dataset entry into canonical rows; counts go into `report`."""

    entry: DatasetEntry
    report: DatasetReport
    rows: str = "supervised"
    """What the stage asks for: `text`, `supervised`, `preference`, `feedback` or `prompt`."""
    options: Any = None
    media_dir: str | None = None
    seed: int = 42
    identity: str | None = None
    """Version and source digest of the provider, for the keys of caches; None: it must not be cached."""
    slots: Slots = field(default_factory=partial(Slots, "load_dataset"), compare=False)


@dataclass(frozen=True)
class TemplateRequest:
    """Make a renderer for this tokenizer. `name` is the template's entry-point name."""

    name: str
    tokenizer: Any
    facts: ModelFacts | None = None
    options: Any = None
    slots: Slots = field(default_factory=partial(Slots, "render_template"), compare=False)


@dataclass(frozen=True)
class MediaRequest:
    """Make a media processor for this bundle."""

    bundle: ModelBundle
    options: Any = None
    media_dir: str | None = None
    slots: Slots = field(default_factory=partial(Slots, "process_media"), compare=False)


@dataclass(frozen=True)
class StageRequest:
    """Train.

    `arguments` are the training arguments as the user set them (names of the class that the stage
    plugin declares in `training_arguments`), without those at their default. Slots: `optimizer` (a
    function of the model and the arguments that returns a `torch.optim.Optimizer`), `loss` (a
    function of outputs, labels and `num_items_in_batch`), `callbacks` (any number of
    `transformers.TrainerCallback`).
    """

    bundle: ModelBundle
    renderer: Renderer
    train: Sequence[LoadedDataset] = ()
    eval: Sequence[LoadedDataset] = ()
    media: MediaProcessor | None = None
    options: Any = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    output_dir: Path | None = None
    seed: int = 42
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The resolved flat configuration, for the model card."""
    identities: Mapping[str, str] = field(default_factory=dict)
    """`template`, `media`, `dataset NAME`, `extension NAME` -> version and source digest of the provider;
    `template options`, `media options` and those of extensions that wrap their hooks. One that is missing is
    an object in memory: do not cache its results."""
    load_model: Callable[[str], ModelBundle] | None = None
    """Role -> a further model, frozen: that of the key which the plugin's `models` names for the role, else the
    run's own model (and adapters) once more. None where there are no weights."""
    open_engine: Callable[..., Engine] | None = None
    """Starts the run's engine on a bundle (and with a seed of its own, `open_engine(bundle, seed)`), for stages
    that learn from what the model says."""
    slots: Slots = field(
        default_factory=partial(
            Slots, "train_stage", once=("optimizer", "loss"), accumulating=("callbacks",)
        ),
        compare=False,
    )


@dataclass(frozen=True)
class EngineRequest:
    """Start an engine, from a bundle in memory or from a path; `settings` is the resolved configuration."""

    renderer: Renderer | None = None
    bundle: ModelBundle | None = None
    facts: ModelFacts | None = None
    adapters: tuple[str, ...] = ()
    media: MediaProcessor | None = None
    options: Any = None
    seed: int = 42
    settings: Mapping[str, Any] = field(default_factory=dict)
    slots: Slots = field(default_factory=partial(Slots, "generate"), compare=False)
