"""Importing foreign modules in a child process, where a hang, a crash or an exit does no harm.

This file is also the child's program, so it imports nothing but the standard library.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence


def trial(targets: Sequence[str], limit: float) -> tuple[list[list[str]], str | None]:
    """Import `module`, `module:attribute` or a `.py` file, in order, until one ends the child.

    Args:
        limit: seconds that all of them may take.

    Returns:
        The names of the options of each target that was reached (none for one that raises), and what
        the next one did to the child, None if all were reached.
    """
    request = json.dumps([list(map(str, sys.path)), targets])
    with tempfile.TemporaryFile("r") as report, tempfile.TemporaryFile("r", errors="replace") as output:
        command = [sys.executable, "-P", __file__]
        try:
            code = subprocess.run(
                command, input=request, text=True, stdout=report, stderr=output, timeout=limit, check=False
            ).returncode
            status = f"exit status {code}" if code >= 0 else signal.Signals(-code).name
            end = f"ends the process when it is imported ({status})"
        except subprocess.TimeoutExpired:
            end = f"did not finish importing within {limit:.0f} s"
        report.seek(0)
        options = [json.loads(line) for line in report if line.endswith("\n")]
        output.seek(0)
        said = "".join(f"\n    {line}" for line in output.read().splitlines()[-5:])
        return options, None if len(options) == len(targets) else f"{end}.{said}"


def _options(target: str) -> list[str]:
    module, _, attribute = target.partition(":")
    if target.endswith(".py"):
        runpy.run_path(target, run_name="tk_door")
        return []
    found = importlib.import_module(module)
    plugin = functools.reduce(getattr, attribute.split("."), found) if attribute else None
    options = getattr(plugin, "Options", None)
    return [field.name for field in dataclasses.fields(options)] if dataclasses.is_dataclass(options) else []


def _main() -> None:
    sys.path[:], targets = json.load(sys.stdin)
    report = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the targets print must not end up in the report
    for target in targets:
        try:
            names = _options(target)
        except BaseException:  # what is wrong with it is told by whoever asked for it
            names = []
        report.write(json.dumps(names) + "\n")
    os._exit(0)  # threads that the targets started do not keep the child alive


if __name__ == "__main__":
    _main()
