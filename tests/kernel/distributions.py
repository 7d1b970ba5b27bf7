"""Real distributions for the kernel's tests: `*.dist-info` folders and modules in a folder of the path."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path

from tkernel.config.read import Setting
from tkernel.config.settle import Settings
from tkernel.index import Index, read_index
from tkernel.library import GROUP
from tkernel.pins import Wanted

BUILT_IN = """
from dataclasses import dataclass
from types import SimpleNamespace
from tkernel import hookimpl

class Plugin:
    def __init__(self, name, **static):
        self.name = name
        vars(self).update(static)

class Model(Plugin):
    @hookimpl
    def load_model(self, request):
        kwargs = request.slots.take("load_kwargs", {})
        return SimpleNamespace(module=kwargs, tokenizer=1, facts=request.facts, replace=1)

class Adapter(Plugin):
    @hookimpl
    def adapt(self, bundle, request):
        return bundle

class Stage(Plugin):
    @hookimpl
    def train_stage(self, request):
        return SimpleNamespace(bundle=request.slots.take("callbacks"), metrics={})

class Template(Plugin):
    @hookimpl
    def render_template(self, request): ...

class Dataset(Plugin):
    @hookimpl
    def load_dataset(self, request): ...

class Engine(Plugin):
    @hookimpl
    def generate(self, request): ...

@dataclass(frozen=True)
class LoraOptions:
    lora_rank: int = 8

HUGGINGFACE = Model("huggingface")
LLAMA = Model("llama", default_template="chatml")
LORA = Adapter("lora", Options=LoraOptions)
FULL = Adapter("full")
ALPACA = Dataset("alpaca")
SFT = Stage("sft")
AUTO = Template("auto")
CHATML = Template("chatml")
ENGINE = Engine("huggingface")
"""

BUILT_IN_ENTRIES = {
    "model": {"huggingface": "HUGGINGFACE", "llama": "LLAMA"},
    "adapter": {"lora": "LORA", "full": "FULL"},
    "dataset": {"alpaca": "ALPACA", "instruction": "ALPACA"},
    "stage": {"sft": "SFT"},
    "template": {"auto": "AUTO", "chatml": "CHATML"},
    "engine": {"huggingface": "ENGINE"},
}


LIBRARIES = "\n".join([f"[{GROUP}]", *(f"{one.name} = {one.value}" for one in entry_points(group=GROUP)), ""])
"""What the kernel asks of its libraries, which stand-ins for plugins cannot do."""


class Site:
    """A folder on `sys.path` with distributions in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def distribution(
        self,
        name: str,
        entry_points: Mapping[str, Mapping[str, str]] | str,
        module: str | None = None,
        version: str = "0.1",
        requires: tuple[str, ...] = (),
    ) -> str:
        """Write a distribution and its one module; gives the module's name, `tk-x` -> `tk_x`.

        `entry_points` is kind -> name -> object of that module, or the text of the file.
        """
        identifier = name.replace("-", "_")
        info = self.folder / f"{identifier}-{version}.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {requirement}" for requirement in requires]
        (info / "METADATA").write_text("\n".join([*lines, "", "A description: with a colon", ""]))
        if not isinstance(entry_points, str):
            groups = [
                "\n".join(
                    [f"[tkernel.{kind}]", *(f"{key} = {identifier}:{value}" for key, value in names.items())]
                )
                for kind, names in entry_points.items()
            ]
            entry_points = "\n\n".join(groups) + "\n"
        (info / "entry_points.txt").write_text(entry_points)
        if module is not None:
            (self.folder / f"{identifier}.py").write_text(textwrap.dedent(module))
        return identifier

    def built_ins(self) -> None:
        """Stand-ins for the built-in plugins, of the distribution `tkernel` as the real ones."""
        self.distribution("tkernel", BUILT_IN_ENTRIES, BUILT_IN, version="1.0.0")
        # The real package `tkernel` is elsewhere; its stand-ins are in a module of their own.
        (self.folder / "tkernel.py").rename(self.folder / "built_in.py")
        file = self.folder / "tkernel-1.0.0.dist-info" / "entry_points.txt"
        file.write_text(file.read_text().replace("tkernel:", "built_in:") + "\n" + LIBRARIES)

    @property
    def index(self) -> Index:
        """What is installed in this folder alone."""
        return read_index([str(self.folder)])

    def run(self, code: str) -> subprocess.CompletedProcess[str]:
        """Run `code` in a fresh interpreter with this folder on the path."""
        return subprocess.run(
            [sys.executable, "-P", "-c", textwrap.dedent(code)],
            env={**os.environ, "PYTHONPATH": str(self.folder), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )


def written(**keys: Wanted) -> Settings:
    """Settings whose values are the names that are wanted, each written where it says."""
    return Settings([[Setting(key, wanted.name, wanted.origin or "") for key, wanted in keys.items()]])
