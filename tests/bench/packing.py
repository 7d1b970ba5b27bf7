"""How fast samples are packed, and how full the rows are.

    .venv/bin/python tests/bench/packing.py [--samples 1000000] [--cutoff_len 2048] [--batch 1000]

Samples have lengths drawn from a log-normal distribution (median 150 tokens). Printed are the CPU seconds of
`pack` over all batches of so many rows, the share of the tokens of the packed rows that is no padding, and how
many times the textbook loop of first fit decreasing takes for the packs of the first batch.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tkernel_plugins.data.packing import Packing, knapsacks, pack, packed_counts


def samples(lengths: np.ndarray) -> pa.Table:
    """Encoded samples of these lengths."""
    offsets = pa.array(np.concatenate(([0], np.cumsum(lengths))).astype(np.int32))
    ids = pa.ListArray.from_arrays(offsets, pa.array(np.zeros(lengths.sum(), dtype=np.int32)))
    origin = pa.array([{"file": "f", "row": row, "line": None} for row in range(len(lengths))])
    return pa.table({"input_ids": ids, "labels": ids, "origin": origin})


def textbook(lengths: Sequence[int], room: int) -> int:
    """Number of packs of first fit decreasing, each sample tried against every pack."""
    packs: list[int] = []
    for length in sorted(lengths, reverse=True):
        found = next((index for index, used in enumerate(packs) if used + length <= room), None)
        if found is None:
            packs.append(length)
        else:
            packs[found] += length
    return len(packs)


def cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds and result."""
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--cutoff_len", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=1000)
    arguments = parser.parse_args()
    packing = Packing(arguments.cutoff_len - 1, padded=arguments.cutoff_len)
    drawn = np.random.default_rng(0).lognormal(5, 1, arguments.samples).astype(int) + 1
    lengths = np.minimum(drawn, packing.room)
    starts = range(0, len(lengths), arguments.batch)
    seconds, tokens, capacity = 0.0, 0, 0
    for start in starts:
        batch = samples(lengths[start : start + arguments.batch])
        took, rows = cpu(lambda batch=batch: pack(batch, packing))
        counts = packed_counts(rows, packing)
        seconds, tokens, capacity = seconds + took, tokens + counts.tokens, capacity + counts.capacity
    first = lengths[: arguments.batch].tolist()
    quick, packs = cpu(lambda: knapsacks(first, packing.room))
    slow, count = cpu(lambda: textbook(first, packing.room))
    assert len(packs) == count
    print(f"packing {len(lengths):,} samples in batches of {arguments.batch:,}: {seconds:.1f} CPU seconds")
    print(f"rows of {arguments.cutoff_len:,} tokens are {tokens / capacity:.1%} full")
    print(f"the textbook loop takes {slow / quick:.0f} times as long for one batch")


if __name__ == "__main__":
    main()
