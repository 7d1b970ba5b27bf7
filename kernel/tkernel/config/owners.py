"""Option names of installed plugins, read in a child process.

Importing a plugin may fail, hang or end the process; none of that may hurt the run that only wants a better
error message. This file is also the child's program, so it imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tkernel.index import Entry

TIME_LIMIT = 10.0
"""Seconds for all plugins together; those that are not reached by then are left out."""

PLUGIN_TIME_LIMIT = 4.0
"""Seconds for one plugin; one that takes longer is left out."""


def options_of(plugins: Sequence[Entry]) -> list[tuple[Entry, tuple[str, ...]]]:
    """The option names of each plugin; one that fails, hangs or exits is left out.

    `tkernel`'s come first; an object with several names is told under the first.
    """
    order = sorted(plugins, key=lambda p: (p.distribution != "tkernel", p.distribution, p.kind, p.name))
    waiting = [p for at, p in enumerate(order) if p.target not in {other.target for other in order[:at]}]
    found: list[tuple[Entry, tuple[str, ...]]] = []
    deadline = time.monotonic() + TIME_LIMIT
    while waiting and time.monotonic() < deadline:
        lines = _child(waiting, deadline)
        names = [json.loads(line) for line in lines]
        found += [(plugin, tuple(keys)) for plugin, keys in zip(waiting, names, strict=False) if keys]
        waiting = waiting[len(lines) + 1 :]  # the first without a line is what ended the child
    return found


def _child(plugins: Sequence[Entry], deadline: float) -> list[str]:
    """Lines that a child wrote, one per plugin in order, until all are done, one ends it, or one hangs."""
    request = {"path": sys.path, "targets": [plugin.target for plugin in plugins]}
    with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile("r") as output:
        json.dump(request, given)
        given.seek(0)
        child = subprocess.Popen(
            [sys.executable, "-I", __file__],
            stdin=given,
            stdout=output,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        written, since = 0, time.monotonic()
        while child.poll() is None and time.monotonic() < min(deadline, since + PLUGIN_TIME_LIMIT):
            time.sleep(0.005)
            size = os.fstat(output.fileno()).st_size
            if size != written:
                written, since = size, time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # what the plugin may have started too
        child.wait()
        output.seek(0)
        return [line for line in output if line.endswith("\n")]


def _main() -> None:
    import dataclasses
    import importlib

    request = json.load(sys.stdin)
    sys.path[:] = request["path"]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what plugins print goes nowhere
    for target in request["targets"]:
        names: list[str] = []
        module, _, attribute = target.partition(":")
        try:
            plugin = importlib.import_module(module)
            for name in attribute.split("."):
                plugin = getattr(plugin, name)
            options = getattr(plugin, "Options", None)
            if dataclasses.is_dataclass(options):
                names = [field.name for field in dataclasses.fields(options)]
        except BaseException:  # whatever is wrong with it is told when somebody asks for it
            names = []
        answers.write(json.dumps(names) + "\n")
    answers.flush()
    os._exit(0)  # threads that plugins started do not keep the child alive


if __name__ == "__main__":
    _main()
