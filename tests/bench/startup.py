"""What it costs to start `tk`: whole processes, as ratios to `python -c pass` in the same run.

    make bench

Targets: `tk --help` at most 12, `tk plugins list` with 300 foreign distributions at most 20.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

TK = str(Path(sys.executable).with_name("tk"))
ROOT = Path(__file__).parents[2]


def cpu_seconds(command: list[str], environment: dict[str, str]) -> float:
    """CPU seconds of one process and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def foreign_distributions(folder: Path, count: int) -> None:
    """Distributions that have nothing to do with tk: half of them with entry points of others."""
    for number in range(count):
        info = folder / f"foreign_{number}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: foreign-{number}\nVersion: 1.0\n")
        if number % 2:
            (info / "entry_points.txt").write_text(f"[console_scripts]\nforeign{number} = foreign:main\n")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        foreign_distributions(Path(name), 300)
        crowded = {**os.environ, "PYTHONPATH": name}
        rows = {
            "python -c pass": ([sys.executable, "-c", "pass"], dict(os.environ)),
            "tk --help": ([TK, "--help"], dict(os.environ)),
            "tk plugins list, 300 foreign": ([TK, "plugins", "list"], crowded),
            "tk plan examples/support.yaml": ([TK, "plan", "examples/support.yaml"], dict(os.environ)),
            "tk run with a mistyped key": (
                [TK, "run", "examples/support.yaml", "lerning_rate=1"],
                dict(os.environ),
            ),
        }
        best = {label: float("inf") for label in rows}
        for _ in range(7):  # interleaved, so that a busy machine is busy for all of them
            for label, (command, environment) in rows.items():
                best[label] = min(best[label], cpu_seconds(command, environment))
    base = best["python -c pass"]
    for label, seconds in best.items():
        print(f"{label:32} {1000 * seconds:7.1f} ms CPU   {seconds / base:5.1f} x")


if __name__ == "__main__":
    main()
