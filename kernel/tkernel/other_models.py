"""The models of a stage beside the one that it trains: a reference, a reward model, a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tkernel.config.convert import convert
from tkernel.config.settle import Settings
from tkernel.errors import Problem, TkError
from tkernel.facts import read_facts
from tkernel.types.facts import ModelFacts

ADAPTERS = "_adapters"
"""Ending of the key that names a model's adapters: `ref_model`, `ref_model_adapters`."""


@dataclass(frozen=True)
class OtherModel:
    """What is loaded for a role, and the adapters on it."""

    facts: ModelFacts
    adapters: tuple[str, ...] = ()


Coming = Mapping[str, OtherModel | None]
"""Folders that earlier stages of a chain will write, and what will be in them; None if that cannot be told."""


@dataclass
class OtherModels:
    """Finds the models that a stage's `models` attribute (role -> key) names; see `tkernel.hookspecs.train_stage`."""

    settings: Settings
    own: ModelFacts | None
    hub: Mapping[str, str | None]
    coming: Coming = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    found: dict[str, OtherModel] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def find(self, models: Mapping[str, str]) -> dict[str, ModelFacts]:
        """The facts of each role whose key is set. An URL is no model, and an adapter's folder is one on our own."""
        self.keys = models
        for role, key in models.items():
            name = self.settings.get(key)
            if name is None or str(name).startswith(("http://", "https://")):
                continue
            adapters: tuple[str, ...] = ()
            if key + ADAPTERS in self.settings:
                adapters, _ = convert(self.settings.setting(key + ADAPTERS), tuple[str, ...], {})
            try:
                if name in self.coming:
                    if (made := self.coming[name]) is not None:
                        self.found[role] = OtherModel(made.facts, (*made.adapters, *(adapters or ())))
                elif is_adapter(str(name)) and self.own is not None:
                    self.found[role] = OtherModel(self.own, (str(name), *(adapters or ())))
                else:
                    self.found[role] = OtherModel(read_facts(str(name), **self.hub), adapters or ())
            except TkError as error:
                self.problems.append(error.problem(self.settings.origin(key), key))
        return {role: other.facts for role, other in self.found.items()}


def is_adapter(name: str) -> bool:
    """Whether a folder holds an adapter and no whole model."""
    path = Path(name).expanduser()
    return (path / "adapter_config.json").is_file() and not (path / "config.json").is_file()
