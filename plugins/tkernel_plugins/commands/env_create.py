"""Making an environment, step by step. Not a plugin; the library of `tk env create`."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tkernel.errors import TkError, UsageError
from tkernel_plugins.commands.env_recipe import Source, find_source, of_wheel, tkernel_target

STATE = "tk-env.json"
"""In the environment: what it was made from, and whether that was finished."""

LOG = "tk-env.log"
"""In the environment: everything that pip and the checks printed."""

SHOWN = 15
"""Last lines of a step that failed, in the message."""

PROGRESS = ("Collecting ", "Downloading ", "Building ", "Installing ", "Uninstalling ")
"""Lines of pip that are shown while it works, on a terminal."""


class StepFailed(TkError):
    """A step of making an environment failed; the message has its command and its last lines."""


def create_environment(
    folder: Path, names: Sequence[str], constraints: Sequence[Path], *, remake: bool = False
) -> None:
    """Make `folder` an environment with tkernel and the distributions `names`, unless it is one already.

    Raises:
        UsageError: the folder holds something else, or an environment that was made from something else.
        BadRecipe: see `env_recipe`.
        StepFailed: a command of the recipe failed. The folder is then known to be half-made, and the
            same call begins anew.
    """
    folder = folder.expanduser().resolve()
    missing = [path for path in constraints if not path.is_file()]
    if missing:
        raise UsageError(f"--constraint: there is no file {missing[0]}")
    constraints = [path.resolve() for path in constraints]
    with tempfile.TemporaryDirectory(prefix="tk-env-") as scratch:
        sources = [find_source(name) or _fetch(name, Path(scratch)) for name in names]
        wanted = _identity(sources, constraints)
        if _is_ready(folder, wanted, remake):
            print(f"{folder} is ready: it was made from the same recipe")
            return
        started = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        _write_state(folder, "making", sources, wanted)
        _make(folder, sources, constraints)
        _write_state(folder, "ready", sources, wanted)
    print(f"{folder} is ready, after {time.monotonic() - started:.0f} s and with {_size(folder)}")
    print(f"  use it: {_binary(folder, 'tk')} run FILE")


def _make(folder: Path, sources: Sequence[Source], constraints: Sequence[Path]) -> None:
    recipes = [source.recipe for source in sources]
    python = str(_binary(folder, "python"))
    own = folder / "constraints.txt"
    extras = tuple(dict.fromkeys(extra for recipe in recipes for extra in recipe.extras))
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    pip += [word for path in (*constraints, own) for word in ("-c", str(path))]
    plain = [word for source in sources if not source.recipe.flags for word in source.target]
    together = [*tkernel_target(extras or (() if sources else ("train",))), *plain]
    together += [requirement for recipe in recipes for requirement in recipe.install]

    steps = [("make the folder", [sys.executable, "-m", "venv", str(folder)])]
    steps.append(("install " + _short(together), [*pip, *together]))
    for source in sources:
        if source.recipe.flags:
            words = [*source.recipe.flags, *source.target]
            steps.append(("install " + _short(words), [*pip, *words]))
    alone = [requirement for recipe in recipes for requirement in recipe.install_no_deps]
    if alone:
        steps.append(("install --no-deps " + _short(alone), [*pip, "--no-deps", *alone]))
    removed = [name for recipe in recipes for name in recipe.remove]
    if removed:
        steps.append(("remove " + _short(removed), [python, "-m", "pip", "uninstall", "-y", *removed]))
    for statement in (line for recipe in recipes for line in recipe.check):
        steps.append((f"check {statement}", [python, "-c", statement]))

    own.write_text(
        "".join(f"{line}\n" for recipe in recipes for line in recipe.constraints), encoding="utf-8"
    )
    for number, (title, command) in enumerate(steps, 1):
        _step(folder, f"[{number}/{len(steps)}] {title}", command)


def _step(folder: Path, title: str, command: list[str]) -> None:
    """Run one command, its output in the log and its progress on the screen."""
    print(f"{title} ...", flush=True)
    started = time.monotonic()
    width = shutil.get_terminal_size().columns - 1
    last: deque[str] = deque(maxlen=SHOWN)
    # A check must not find modules of the folder where somebody happens to be.
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder, env=environment
    )
    try:
        assert process.stdout is not None
        with (folder / LOG).open("a", encoding="utf-8") as log:
            log.write(f"$ {shlex.join(command)}\n")
            for line in process.stdout:
                log.write(line)
                last.append(line.rstrip())
                if sys.stdout.isatty() and line.lstrip().startswith(PROGRESS):
                    print(f"\r  {line.strip()}"[:width].ljust(width), end="", flush=True)
        code = process.wait()
    finally:
        process.kill()
    if sys.stdout.isatty():
        print("\r".ljust(width) + "\r", end="")
    if code:
        lines = "\n".join(f"    {line}" for line in last)
        raise StepFailed(
            f"{title} failed with exit code {code}: {shlex.join(command)}\n{lines}",
            hint=f"All of its output is in {folder / LOG}. When the cause is mended, run the same command again.",
        )
    print(f"  done in {time.monotonic() - started:.0f} s", flush=True)


def _is_ready(folder: Path, wanted: str, remake: bool) -> bool:
    """Whether `folder` is what is wanted; one of ours that is not finished, or is to be remade, is emptied."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UsageError(
            f"{folder} is there and was not made by `tk env create`",
            hint="Name another folder, or remove it.",
        ) from None
    if state["state"] == "ready" and not remake:
        if state["identity"] != wanted:
            made = " ".join(f"--with {name}" for name in state["with"]) or "without --with"
            raise UsageError(
                f"{folder} was made from another recipe ({made}, tkernel {state['tkernel']})",
                hint="Make it anew with --remake, or name another folder.",
            )
        if _runs(folder):
            return True
        print(f"{folder} does not run any more; it is made anew", flush=True)
    elif state["state"] != "ready":
        print(f"{folder} was not finished; it is made anew", flush=True)
    shutil.rmtree(folder)
    return False


def _runs(folder: Path) -> bool:
    python = _binary(folder, "python")
    if not python.exists():
        return False
    return subprocess.run([python, "-c", "import tkernel"], capture_output=True, check=False).returncode == 0


def _fetch(name: str, scratch: Path) -> Source:
    """The wheel of a distribution that is not installed here, as pip finds it."""
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(scratch), name]
    print(f"get {name} ...", flush=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(scratch.glob("*.whl"), key=lambda wheel: wheel.stat().st_mtime)
    if done.returncode or not wheels:
        lines = "\n".join(f"    {line}" for line in done.stderr.strip().splitlines()[-SHOWN:])
        raise StepFailed(
            f"{name} is neither installed here nor found by {shlex.join(command)}\n{lines}",
            hint="Name the folder of its sources: --with PATH.",
        )
    return of_wheel(name, wheels[-1])


def _identity(sources: Sequence[Source], constraints: Sequence[Path]) -> str:
    """A digest of all that decides what is in the environment."""
    # Of a wheel that was fetched, the folder is another one each time.
    targets = [[Path(word).name if word.endswith(".whl") else word for word in s.target] for s in sources]
    made = [
        tkernel_target(()),
        targets,
        [asdict(source.recipe) for source in sources],
        [path.read_text(encoding="utf-8") for path in constraints],
        sys.version_info[:2],
    ]
    return hashlib.sha256(json.dumps(made).encode()).hexdigest()


def _write_state(folder: Path, state: str, sources: Sequence[Source], identity: str) -> None:
    from importlib_metadata import version

    content = {
        "state": state,
        "identity": identity,
        "with": [source.name for source in sources],
        "tkernel": version("tkernel"),
    }
    (folder / STATE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _short(words: Sequence[str]) -> str:
    """Requirements as a line of moderate length; paths by their last part."""
    shown = " ".join(word.rpartition("/")[2] for word in words if word != "-e")
    return shown if len(shown) <= 70 else shown[:67] + "..."


def _binary(folder: Path, name: str) -> Path:
    return folder / ("Scripts" if os.name == "nt" else "bin") / name


def _size(folder: Path) -> str:
    total = sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_symlink())
    return f"{total / 2**30:.1f} GB" if total >= 2**29 else f"{total / 2**20:.0f} MB"
