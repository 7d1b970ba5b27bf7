"""A planned run: its choices, its typed options, and what makes it the same run again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tkernel import lock
from tkernel.activate import Active
from tkernel.config.bind import Bound
from tkernel.config.options import RunOptions
from tkernel.config.read import Setting
from tkernel.config.settle import Settings
from tkernel.errors import TkError
from tkernel.memory import InMemory
from tkernel.other_models import OtherModel
from tkernel.references import digest, find_function
from tkernel.trace import Trace
from tkernel.types.dataset import DatasetEntry
from tkernel.types.facts import ModelFacts
from tkernel.types.plan import Choice, Plan


@dataclass(frozen=True)
class Session:
    """A run that is planned, validated and ready to be called, hook by hook."""

    settings: Settings
    bound: Bound
    facts: ModelFacts
    plan: Plan
    active: Active
    train: tuple[DatasetEntry, ...] = ()
    evaluation: tuple[DatasetEntry, ...] = ()
    objects: InMemory = field(default_factory=InMemory)
    plugins: tuple[str, ...] = ()
    """What `plugins:` and `--plugin` named, in order."""
    others: Mapping[str, OtherModel] = field(default_factory=dict)
    """Role -> a model beside the trained one, where the stage has one and its key is set."""
    coming: tuple[str, ...] = ()
    """Folders of the earlier stages of a chain; what they hold is read again when they have ended."""
    name: str | None = None
    """The name of the stage in its chain."""

    @property
    def options(self) -> RunOptions:
        """The kernel's own options."""
        return self.bound.run

    def resolved(self) -> dict[str, Any]:
        """The flat configuration with the names of the chosen plugins filled in."""
        named = {"stage": "stage", "finetuning_type": "adapter", "template": "template"}
        chosen = {key: self.choice(kind).name for key, kind in named.items()}
        return {**self.settings, **self.bound.values, **chosen}

    @property
    def output_dir(self) -> Path | None:
        """Where the result goes."""
        return None if self.options.output_dir is None else Path(self.options.output_dir)

    @property
    def resuming(self) -> bool:
        """Whether an earlier run in `output_dir`, or a checkpoint, is to be gone on with."""
        return bool(self.bound.arguments.get("resume_from_checkpoint"))

    @property
    def trace(self) -> Trace:
        """What the hooks of this session cost."""
        return self.active.trace

    def choice(self, kind: str, subject: str | None = None) -> Choice:
        """The provider of a kind; the plan has one for every kind but `dataset` and `media`."""
        found = self.plan.chosen(kind, subject)
        if found is None:
            raise TkError(f"this run has no {kind}", hint="See what it has: tk plan FILE")
        return found

    def options_of(self, choice: Choice) -> Any:
        """The bound `Options` of a chosen plugin, None if it declares none."""
        return self.bound.options(choice.label)

    def lock(self) -> lock.Lock:
        """What has to be the same for this run to be made again."""
        hashes = {"model": self.facts.content_hash or "in memory"}
        if self.facts.chat_template:
            hashes["chat_template"] = hashlib.sha256(self.facts.chat_template.encode()).hexdigest()
        for entry in (*self.train, *self.evaluation):
            if entry.source == "file":
                hashes[f"dataset {entry.name}"] = lock.content_hash(entry.location)
        for role, other in self.others.items():
            hashes[f"model {role}"] = other.facts.content_hash or "in memory"
        used = [name for other in self.others.values() for name in other.adapters]
        for name in (*self.options.adapter_name_or_path, *used):
            if files := sorted(Path(name).expanduser().glob("adapter_*")):
                hashes[f"adapter {name}"] = lock.content_hash(*files)
        for text in self.bound.functions():
            hashes[f"function {text}"] = digest(find_function(text))
        distributions = {c.distribution for c in (*self.plan.choices, *self.plan.extensions)}
        versions = lock.installed_versions(sorted({*lock.LIBRARIES, *distributions} - {"file", "object"}))
        seeds = {"seed": self.options.seed}
        # Tokens are secrets, and a result may be published; a replay takes them from the environment.
        kept = [key for key in self.settings if key != "plugins" and not key.endswith("_token")]
        settings = [self.settings.setting(key) for key in kept]
        if self.plugins:  # those of the command line too, without which a replay would be another run
            origin = self.settings.origin("plugins") or "--plugin"
            settings.append(Setting("plugins", list(self.plugins), origin))
        return lock.Lock(tuple(settings), lock.plan_of(self.plan), versions, hashes, seeds)
