"""`run.lock.json`: what a run was made of, written so that it can be made again or be refused."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tkernel.config.read import Setting, read_json
from tkernel.errors import ConfigError, LockMismatch, Problem
from tkernel.module_file import file_of
from tkernel.requirements import installed_version
from tkernel.types.plan import Choice, Plan

SCHEMA = 1
FILE_NAME = "run.lock.json"
SUFFIX = ".lock.json"
"""A file with this ending is a lock, whatever it was renamed to."""

LIBRARIES = (
    *("accelerate", "datasets", "numpy", "peft", "pluggy", "safetensors", "tkernel"),
    *("tokenizers", "torch", "transformers", "trl"),
)
"""Distributions whose versions a lock records beside those of the plugins."""

WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth")
"""Files that are too large to be hashed whole."""

SECTIONS = ("plan", "versions", "hashes", "seeds")
"""What two runs are compared by, beside their settings."""


@dataclass(frozen=True)
class Lock:
    """The content of a lock. `plan` maps `stage` or `dataset identity` to `dist==version:entry point`."""

    settings: tuple[Setting, ...] = ()
    """The configuration; in a lock that was read, the origins are its lines."""
    plan: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    result: Mapping[str, Any] | None = None
    """`steps` and `metrics` of a run that has ended."""


def write_lock(path: str | os.PathLike[str], lock: Lock, plan: Plan) -> None:
    """Write a lock, keys sorted, in one step (never half a file).

    A setting that JSON cannot hold (an object given from Python) is recorded by its type and cannot be
    replayed. `choices` says in full, and for readers only, what `plan` says briefly.
    """
    content = {
        "schema": SCHEMA,
        "settings": {item.key: {"origin": item.origin, **_value(item.value)} for item in lock.settings},
        "choices": [asdict(choice) for choice in (*plan.choices, *plan.extensions)],
        **{section: dict(getattr(lock, section)) for section in SECTIONS},
        **({"result": lock.result} if lock.result is not None else {}),
    }
    _write(Path(path), content)


def mark(path: str | os.PathLike[str], result: Mapping[str, Any]) -> None:
    """Write the result of its run into a lock. What the run was made of stays as it was told when it began."""
    content = json.loads(Path(path).read_text("utf-8"))
    _write(Path(path), {**content, "result": dict(result)})


def _write(target: Path, content: Mapping[str, Any]) -> None:
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    draft.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")
    os.replace(draft, target)


def read_lock(path: str | os.PathLike[str]) -> tuple[Lock | None, list[Problem]]:
    """The lock, or what is wrong with the file. Nothing that it names is imported."""
    try:
        content = read_json(Path(path), "lock")
    except ConfigError as error:
        return None, list(error.problems)
    message, hint = None, "Locks are written by `tk run` into output_dir."
    if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
        message = "the file is no lock of a run"
    elif content.get("schema") != SCHEMA:
        message = f"the lock has schema {content.get('schema')!r}, and this tk reads schema {SCHEMA}"
        hint = "Replay it with the version of tkernel that it names."
    elif not all(isinstance(content.get(section), dict) for section in SECTIONS):
        message = f"the lock lacks one of {', '.join(SECTIONS)}"
    if message is not None:
        return None, [Problem(message, str(path), hint=hint)]
    problems: list[Problem] = []
    settings: list[Setting] = []
    for key, item in content["settings"].items():
        origin = f"{path}:{content['settings'].lines[key]}"
        if isinstance(item, dict) and "value" in item:
            settings.append(Setting(key, item["value"], origin))
        else:
            message = f"{key} was an object given from Python, and a lock cannot give it again"
            problems.append(Problem(message, origin, key, "Run it from Python, with the object."))
    sections = {section: content[section] for section in (*SECTIONS, "result") if section in content}
    return Lock(tuple(settings), **sections), problems


def contents(lock: Lock) -> dict[str, str]:
    """`versions torch` -> what the lock says: plugins, versions, content hashes and seeds."""
    sections = ((section, getattr(lock, section)) for section in SECTIONS)
    return {f"{section} {key}": str(value) for section, entries in sections for key, value in entries.items()}


def difference(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Where two contents differ, as the lines of a diff."""
    lines = []
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            lines += [f"- {key}: {before.get(key, '(none)')}", f"+ {key}: {now.get(key, '(none)')}"]
    return lines


def refuse(path: str | os.PathLike[str], differences: Sequence[str]) -> None:
    """Raise `LockMismatch` with the diff, if there is one."""
    if differences:
        raise LockMismatch(
            "\n  ".join([f"{path} cannot be replayed: what it needs is not what is here", *differences]),
            hint="Install the versions and restore the files of the `-` lines, or run the original configuration.",
        )


def plan_of(plan: Plan) -> dict[str, str]:
    """Each choice as `dist==version:entry point`, under its kind and subject, or as `extension NAME`."""
    return {key_of(choice): _described(choice) for choice in (*plan.choices, *plan.extensions)}


def identities(plan: Plan) -> dict[str, str]:
    """As `plan_of`, each with the digest of the source that the plugin is made of.

    That is its package, or the files beside its file; a version alone says nothing about a plugin that is
    being written. A plugin object given from Python has none, and is left out.
    """
    known = [choice for choice in (*plan.choices, *plan.extensions) if choice.version != "?"]
    return {key_of(choice): f"{_described(choice)} {_source(choice.target)}" for choice in known}


def key_of(choice: Choice) -> str:
    """The name of a choice in a lock: `template`, `dataset NAME`, `extension NAME`."""
    subject = choice.name if choice.kind == "extension" else choice.subject
    return f"{choice.kind} {subject}" if subject else choice.kind


def _described(choice: Choice) -> str:
    return f"{choice.distribution}=={choice.version}:{choice.name} = {choice.target}"


def _source(target: str) -> str:
    module, colon, _ = target.partition(":")
    if colon:
        return _package_source(module.split(".")[0])
    file = Path(target)  # hashed anew each time: it may be edited and loaded again
    return content_hash(*sorted({file, *file.parent.glob("*.py")}))


@functools.cache
def _package_source(name: str) -> str:
    file = file_of(name)
    if file is None or (file.is_file() and file.stem != "__init__"):
        return content_hash(*[file] if file else [])
    return content_hash(*sorted((file if file.is_dir() else file.parent).rglob("*.py")))


def installed_versions(distributions: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Versions of Python and of those `distributions` that are installed, from metadata alone."""
    found = {name: installed_version(name) for name in distributions}
    return {"python": platform.python_version()} | {name: v for name, v in found.items() if v is not None}


def content_hash(*paths: str | os.PathLike[str]) -> str:
    """`sha256:...` over the names (relative to each folder) and the contents of files and folders.

    Of weights the name, the size, the first and the last MiB count, so that 100 GB take milliseconds: an
    edit in the middle of a weight file that keeps its size is not seen.
    """
    total = hashlib.sha256()
    for path in map(Path, paths):
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            name = file.relative_to(path).as_posix() if path.is_dir() else file.name
            total.update(f"{name}\0{_digest(file)}\n".encode())
    return f"sha256:{total.hexdigest()}"


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        if file.suffix not in WEIGHTS:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        size = file.stat().st_size
        start = stream.read(2**20)
        stream.seek(max(0, size - 2**20))
        end = stream.read()
    return hashlib.sha256(b"%d %b %b" % (size, start, end)).hexdigest()


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, os.PathLike):
        return {"value": os.fspath(value)}
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return {"object": f"{type(value).__module__}.{type(value).__qualname__}"}
    return {"value": value}
