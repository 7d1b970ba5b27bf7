"""What the runs of the stage contract are made of, and what is looked at afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tkernel.errors import ConfigError
from tkernel.types.bundle import ModelBundle
from tkernel.types.dataset import LoadedDataset

SAID = (
    ("Hi", "Hello."),
    ("Who runs the inn?", "The user does, and nobody else, naïve 😀 as it sounds."),
    ("How much is 12 and 12?", "24"),
    ("Say it again, in many more words than before, please: how much?", "Twenty-four."),
    ("And then?", "Then on and on and on and on and on and on."),
    ("Stop", "Yes."),
    ("12 1212", "1212 12 in order."),
    ("Where?", "Behind the inn, on the left."),
)
BASE: Mapping[str, Any] = {
    "do_train": True,
    "use_cpu": True,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "logging_strategy": "steps",
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "max_grad_norm": 0.0,
    "weight_decay": 0.0,
}
"""Training arguments of every run of the suite, under transformers' names."""


def recorder() -> Any:
    """A callback with `logs`."""
    from transformers import TrainerCallback

    class Recorder(TrainerCallback):  # type: ignore[misc]
        """Keeps what the stage logs."""

        def __init__(self) -> None:
            self.logs: list[dict[str, float]] = []

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            self.logs.append(dict(logs))

    return Recorder()


def streamed(loaded: LoadedDataset, stream: bool) -> LoadedDataset:
    """The same rows, from an iterable dataset with `stream`."""
    return dataclasses.replace(loaded, rows=loaded.rows.to_iterable_dataset()) if stream else loaded


def losses(logs: Sequence[Mapping[str, float]]) -> list[float]:
    """The loss of each logged training step."""
    return [float(entry["loss"]) for entry in logs if "loss" in entry]


def moved(before: ModelBundle, after: ModelBundle) -> list[str]:
    """Names of the parameters that differ in any bit."""
    other = dict(after.module.named_parameters())
    return [name for name, parameter in before.module.named_parameters() if not parameter.equal(other[name])]


def pulled_positions(bundle: ModelBundle) -> list[int]:
    """Filled while the tiny model is trained: of each call, at how many positions what its output layer
    reads has a gradient."""
    found: list[int] = []

    def watch(module: Any, given: Any, output: Any) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: found.append(int(gradient.ne(0).any(-1).sum())))

    bundle.module.base_model.norm.register_forward_hook(watch)
    return found


def taken(suite: Any, *keys: str) -> list[str]:
    """Those of `keys` that the options of the suite's stage have and can set."""
    declared = getattr(suite.provider, "Options", None)
    names = {field.name for field in dataclasses.fields(declared)} if declared else set()
    found = []
    for key in (key for key in keys if key in names):
        try:
            suite.bound_options(**{key: 3 if key == "buffer_size" else True})
        except (ValueError, ConfigError):  # inherited, and not for samples of this kind
            continue
        found.append(key)
    return found
