"""What encoding costs beside the bare tokenizer, on the same texts in the same process.

    .venv/bin/python tests/bench/encoding.py --tokenizer DIR --data FILE [--rows 20000] [--rounds 5]

Canonical supervised rows are encoded batch by batch with a named template, and the texts that this renders are
encoded with `tokenizers`' `encode_batch_fast` in batches of the same size, in turn, `--rounds` times. Printed are
samples per second of each, by the median of the rounds, and their ratio: by the clock, and by CPU seconds, which
other work on the machine disturbs less. `TOKENIZERS_PARALLELISM=false` measures one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any


def canonical_rows(file: Path, rows: int) -> Any:
    """Rows of an alpaca file, repeated to `rows`, as one Arrow table."""
    import pyarrow as pa

    from tkernel.types.dataset import DatasetEntry, DatasetReport
    from tkernel.types.requests import DatasetRequest
    from tkernel_plugins.data.options import RowOptions
    from tkernel_plugins.datasets.alpaca import DATASET

    entry = DatasetEntry("rows", str(file), formatting="alpaca")
    loaded = DATASET.load_dataset(DatasetRequest(entry, DatasetReport("rows"), options=RowOptions()))
    table = loaded.with_format("arrow")[:]
    return pa.concat_tables([table] * -(-rows // table.num_rows)).slice(0, rows).combine_chunks()


def measure(
    tokenizer_dir: Path, file: Path, rows: int, template: str, rounds: int, batch: int = 1000
) -> dict[str, float]:
    """Samples per second: `encoding`, `bare`, by the clock and by CPU seconds, and their ratios."""
    from transformers import AutoTokenizer

    from tkernel_plugins.data.canonical import conversations
    from tkernel_plugins.data.encoding import encoder_for
    from tkernel_plugins.data.options import PrepareOptions

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    (entry,) = {e.value: e for e in entry_points(group="tkernel.template", name=template)}.values()
    renderer = entry.load().renderer(tokenizer)
    table = canonical_rows(file, rows)
    batches = [table.slice(start, batch) for start in range(0, rows, batch)]
    texts = [[renderer.text(c) for c in conversations(part)] for part in batches]
    encoder = encoder_for("supervised", renderer=renderer, tokenizer=tokenizer, options=PrepareOptions())
    backend = tokenizer.backend_tokenizer
    seconds: dict[str, list[float]] = {
        f"{name}{unit}": [] for unit in ("", " (CPU)") for name in ("bare", "encoding")
    }
    for number in range(rounds + 1):
        for name, work, given in (
            ("bare", lambda part: backend.encode_batch_fast(part, add_special_tokens=False), texts),
            ("encoding", encoder, batches),
        ):
            started = time.perf_counter(), time.process_time()
            for part in given:
                work(part)
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - started[0])
                seconds[f"{name} (CPU)"].append(time.process_time() - started[1])
    rates = {name: rows / statistics.median(times) for name, times in seconds.items()}
    ratios = {f"ratio{unit}": rates[f"encoding{unit}"] / rates[f"bare{unit}"] for unit in ("", " (CPU)")}
    return rates | ratios


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--template", default="smollm2")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    for name, value in measure(given.tokenizer, given.data, given.rows, given.template, given.rounds).items():
        print(f"{name:16} {value:10,.2f}")
