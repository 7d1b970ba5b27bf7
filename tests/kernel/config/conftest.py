"""Training arguments of a package that is read and never imported, and plugins in modules of their own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tkernel.config.bind import Key
from tkernel.index import Entry
from tkernel_plugins.keys.argument_keys import training_arguments

SOURCE = """
import os
raise SystemExit("read, never imported")
from .names import Strategy
from typing import Any, ClassVar, Optional
from .base import Base as _Base

@dataclass
class TrainingArguments(_Base):
    shared: ClassVar[int] = 1
    learning_rate: float = field(default=5e-5, metadata={"help": "rate"})
    num_train_epochs: float = 3.0
    per_device_train_batch_size: int = field(default=8)
    gradient_accumulation_steps: int = 1
    warmup_steps: float = 0
    save_steps: float = 500
    bf16: bool = False
    eval_strategy: Strategy | str = "no"
    optim: "Strategy | str" = field(default=compute(), metadata={"choices": ["adamw", "sgd"]})
    report_to: None | str | list[str] = None
    run_name: Optional[str] = None
    lr_scheduler_kwargs: dict | str | None = None
    fsdp: str | None = field(default=None, metadata={"const": True})
    level: str = field(default="info", metadata={"choices": LEVELS.keys()})
    resume_from_checkpoint: str | None = None
    ddp_timeout: int = 1800
    train_sampling_strategy: str = "random"
    labels: list[str] = field(default_factory=list)
    private: int = field(init=False, default=3)
    _hidden: int = 1
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `hugging` on `sys.path` that ends the process when it is imported."""
    root = tmp_path / "site"
    (root / "hugging" / "deep").mkdir(parents=True)
    (root / "hugging" / "__init__.py").write_text(
        "if TYPE_CHECKING:\n    from .arguments import TrainingArguments as TrainingArguments\nraise SystemExit\n"
    )
    (root / "hugging" / "arguments.py").write_text(SOURCE)
    (root / "hugging" / "base.py").write_text(
        "class Base:\n    output_dir: str | None = None\n    seed: int = 42\n"
    )
    (root / "hugging" / "names.py").write_text(
        'class Strategy(str, Enum):\n    NO = "no"\n    STEPS = "steps"\n    EPOCH = "epoch"\n'
    )
    (root / "hugging" / "deep" / "__init__.py").touch()
    (root / "hugging" / "deep" / "config.py").write_text(
        "from hugging import TrainingArguments\n"
        "class Config(TrainingArguments):\n    learning_rate: float = 1e-6\n    beta: float = 0.1\n"
    )
    monkeypatch.syspath_prepend(str(root))
    return root


@pytest.fixture
def arguments(package: Path) -> dict[str, Key]:
    return training_arguments("hugging.arguments:TrainingArguments")


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Entry]:
    """Write the module of a plugin and give its entry: `plugin("adapter", "freeze", source, "tk-x")`."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def write(kind: str, name: str, source: str, distribution: str = "tkernel") -> Entry:
        module = f"plugin_{kind}_{name}_{len(list(folder.iterdir()))}"
        (folder / f"{module}.py").write_text(source)
        assert module not in sys.modules
        return Entry(kind, name, f"{module}:PLUGIN", distribution, "1.0")

    return write
