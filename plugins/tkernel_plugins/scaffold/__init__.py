"""New distributions with one working plugin, for `tk plugins new`."""

from __future__ import annotations

import re
from pathlib import Path

from tkernel.errors import UsageError
from tkernel.hookspecs import KINDS

SOURCES = Path(__file__).with_name("sources")

OBJECTS = {"extension": "EXTENSION", "command": "COMMAND"} | {kind: kind.upper() for kind in KINDS}
"""Kind -> what the plugin object is called in its source."""

PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{distribution}"
version = "0.1.0"
description = "A plugin for tk: {kind} {name}"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["tkernel>=1,<2"]

[project.entry-points."tkernel.{kind}"]
{name} = "{module}:{object}"

[tool.setuptools]
py-modules = ["{module}"]
"""

CONTRACT = """\
from tkernel.testing import {suite}


class Test{title}({suite}):
    plugin = "{name}"
"""

README = """\
# {distribution}

A plugin for `tk`: {kind} `{name}`. It works as it is; change `{module}.py`.

    pip install -e .
    tk plugins show {kind}:{name}
{use}
"""

USES = {
    "model": "    tk plan FILE        # it answers for models whose `model_type` is {name}",
    "adapter": "    tk run FILE finetuning_type={name}",
    "dataset": '    # in dataset_info.json: {{"mine": {{"file_name": "mine.jsonl", "formatting": "{name}"}}}}',
    "template": "    tk run FILE template={name}",
    "media": '    # name it in a model plugin, `media = "{name}"`, or prefer it: tk run FILE --plugin {name}',
    "stage": "    tk run FILE stage={name}",
    "engine": "    tk chat FILE infer_backend={name}",
    "extension": "    tk run FILE --plugin {name}",
    "command": "    tk {name} --help",
}


def write_distribution(kind: str, name: str, into: Path) -> Path:
    """Write `tk-NAME` into the folder `into`: module, metadata, contract test and README.

    Returns:
        The folder of the distribution.

    Raises:
        UsageError: `name` cannot be the name of a plugin, or the folder is there already.
    """
    if re.fullmatch(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*", name) is None:
        raise UsageError(
            f"{name!r} cannot be the name of a plugin",
            hint="Use small letters, digits, - and _, beginning with a letter.",
        )
    distribution = f"tk-{name.replace('_', '-')}"
    folder = into / distribution
    if folder.exists():
        raise UsageError(f"{folder} is there already", hint="Choose another name, or remove it.")
    identifier = name.replace("-", "_")
    words = {
        "kind": kind,
        "name": name,
        "distribution": distribution,
        "module": f"tk_{identifier}",
        "object": OBJECTS[kind],
        "suite": f"{kind.capitalize()}Contract",
        "title": "".join(part.capitalize() for part in identifier.split("_")),
    }
    source = (SOURCES / f"{kind}.py").read_text(encoding="utf-8")
    folder.mkdir(parents=True)
    (folder / f"{words['module']}.py").write_text(renamed(source, name, identifier), encoding="utf-8")
    (folder / "pyproject.toml").write_text(PYPROJECT.format(**words), encoding="utf-8")
    use = USES[kind].format(**words)
    if kind in KINDS:
        use = f"    tk plugins test {kind}:{name}\n{use}"
        (folder / "tests").mkdir()
        (folder / "tests" / "test_contract.py").write_text(CONTRACT.format(**words), encoding="utf-8")
    (folder / "README.md").write_text(README.format(use=use, **words), encoding="utf-8")
    return folder


def renamed(source: str, name: str, identifier: str) -> str:
    """The source with `demo`, its own name, replaced: in text as `name`, in Python names as `identifier`."""
    source = re.sub(r"\bdemo\b", name, source)
    return re.sub(r"demo(?=_)|(?<=_)demo", identifier, source)
