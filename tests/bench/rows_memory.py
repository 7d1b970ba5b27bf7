"""Peak memory of reading rows into a dataset and passing over them: one million against ten thousand.

    python tests/bench/rows_memory.py [--streaming]

Prints, for each number of rows, the peak resident memory of a fresh process and the rows per second, and the
difference of the peaks.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = (10_000, 1_000_000)
_ANSWER = "It is open from nine to five, and on Sundays from ten to four. " * 6


def write(file: Path, rows: int) -> None:
    """Alpaca rows of about 500 characters."""
    with file.open("w", encoding="utf-8") as text:
        for number in range(rows):
            row = {
                "instruction": f"When is shop {number} open?",
                "input": "",
                "output": _ANSWER + str(number),
            }
            text.write(json.dumps(row) + "\n")


def read(file: Path, streaming: bool) -> None:
    """Read the rows once as a stage does, and print what it took."""
    from tkernel.types.dataset import DatasetEntry, DatasetReport
    from tkernel.types.requests import DatasetRequest
    from tkernel_plugins.data.mapped import release
    from tkernel_plugins.data.options import RowOptions
    from tkernel_plugins.datasets.alpaca import DATASET

    report = DatasetReport("rows")
    entry = DatasetEntry("rows", str(file), formatting="alpaca")
    started = time.monotonic()
    rows = DATASET.load_dataset(DatasetRequest(entry, report, options=RowOptions(streaming=streaming)))
    loaded = time.monotonic() - started
    if streaming:
        for _ in rows:
            pass
    else:
        files = [item["filename"] for item in rows.cache_files]
        for number, _ in enumerate(rows.with_format("arrow").iter(batch_size=1000)):
            if number % 10 == 0:
                release(files)
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"rows": report.kept, "peak_mb": peak, "load_s": loaded, "seconds": seconds}))


def main() -> None:
    """Measure each size in a process of its own."""
    if sys.argv[1:2] == ["--read"]:
        read(Path(sys.argv[2]), "--streaming" in sys.argv)
        return
    peaks = []
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "rows.jsonl")
            write(file, size)
            command = [sys.executable, __file__, "--read", str(file), *sys.argv[1:]]
            result = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
        peaks.append(result["peak_mb"])
        rate = result["rows"] / result["seconds"]
        print(
            f"{result['rows']:>9,} rows: peak {result['peak_mb']:,.0f} MB, {result['load_s']:.1f} s to load, {rate:,.0f} rows/s"
        )
    print(f"difference of the peaks: {peaks[1] - peaks[0]:,.0f} MB")


if __name__ == "__main__":
    main()
