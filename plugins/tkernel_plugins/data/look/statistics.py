"""Numbers about prepared data: lengths, padding, packing, steps, and a `cutoff_len` that would fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tkernel.types.requests import StageRequest
from tkernel_plugins.data.look.batches import Batches, Steps
from tkernel_plugins.data.look.lengths import Lengths, lengths_of
from tkernel_plugins.data.look.whole import WholeRows
from tkernel_plugins.data.options import PrepareOptions
from tkernel_plugins.data.progress import Progress
from tkernel_plugins.data.report import SampleCounts

if TYPE_CHECKING:
    import numpy as np

    from tkernel_plugins.data.prepare import Prepared

PERCENTILES = (1, 5, 25, 50, 75, 90, 95, 99, 100)
FITTING = (90, 95, 99, 100)
"""Shares of rows, in percent, for which a fitting `cutoff_len` is told."""
BINS = 20
_ROUND = 8
_BATCH = 500


@dataclass(frozen=True)
class Bin:
    """How many samples have `start` to `stop` tokens, both included."""

    start: int
    stop: int
    count: int


@dataclass(frozen=True)
class Packed:
    """How well rows are filled. `efficiency` is the share of their tokens that is no padding."""

    rows: int
    samples_per_row: float
    efficiency: float


@dataclass(frozen=True)
class SplitStatistics:
    """One split. `tokens` and `supervised` are of samples as they are trained, after truncation."""

    name: str
    samples: int
    tokens: int
    supervised: int
    percentiles: Mapping[int, int]
    histogram: tuple[Bin, ...]
    datasets: Mapping[str, Mapping[int, int]]
    """Percentiles of lengths for each dataset."""

    @property
    def mean(self) -> float:
        """Tokens of a sample."""
        return self.tokens / self.samples if self.samples else 0.0


@dataclass(frozen=True)
class Statistics:
    """Everything that `tk data stats` says."""

    splits: tuple[SplitStatistics, ...]
    counts: tuple[SampleCounts, ...]
    cutoff_len: int
    batches: Batches | None
    steps: Steps | None
    packed: Packed | None
    fitting: Mapping[int, int]
    """Percent of training rows -> the `cutoff_len` that leaves them whole."""


def statistics_of(
    request: StageRequest,
    prepared: Prepared,
    kind: str,
    plan: Callable[[Lengths], tuple[Batches, Steps]],
) -> Statistics:
    """The statistics of prepared data; `plan` tells the batches and steps of training on samples."""
    splits = {"train": prepared.train}
    evaluation = prepared.eval if isinstance(prepared.eval, dict) else {"eval": prepared.eval}
    splits |= {name if name == "eval" else f"eval {name}": split for name, split in evaluation.items()}
    names = _names_of_files(request)
    lengths = {name: _counted(name, split, kind) for name, split in splits.items() if split is not None}
    train = lengths.get("train")
    batches = steps = packed = None
    if train is not None and len(train.samples):
        batches, steps = plan(train)
        if train.packed:
            rows = len(train.longest)
            packed = Packed(rows, len(train.samples) / rows, 1 - batches.waste)
    return Statistics(
        tuple(_split_statistics(name, found, names) for name, found in lengths.items()),
        tuple(prepared.report.datasets),
        (request.options or PrepareOptions()).cutoff_len,
        batches,
        steps,
        packed,
        _fitting(request, prepared, kind, train),
    )


def percentiles(lengths: np.ndarray[Any, Any], wanted: Sequence[int] = PERCENTILES) -> dict[int, int]:
    """The shortest length that so many percent of the samples do not exceed (nearest rank)."""
    import numpy as np

    if not len(lengths):
        return {}
    found = np.percentile(lengths, list(wanted), method="inverted_cdf")
    return {percent: int(length) for percent, length in zip(wanted, found, strict=True)}


def histogram(lengths: np.ndarray[Any, Any], bins: int = BINS) -> tuple[Bin, ...]:
    """Samples in at most `bins` stretches of one width."""
    import numpy as np

    if not len(lengths):
        return ()
    lowest, highest = int(lengths.min()), int(lengths.max())
    width = -(-(highest - lowest + 1) // bins)
    counts = np.bincount((lengths - lowest) // width)
    return tuple(
        Bin(lowest + number * width, min(lowest + (number + 1) * width - 1, highest), int(count))
        for number, count in enumerate(counts)
    )


def _counted(name: str, split: Any, kind: str) -> Lengths:
    with Progress(f"count {name}", getattr(split, "num_rows", None), quiet_below=2) as progress:
        return lengths_of(split, kind, progress.advance)


def _split_statistics(name: str, lengths: Lengths, names: Mapping[str, str]) -> SplitStatistics:
    import numpy as np

    owners = np.array([names.get(file, file) for file in lengths.files], dtype=object)
    return SplitStatistics(
        name,
        len(lengths.samples),
        lengths.tokens,
        lengths.learned,
        percentiles(lengths.samples),
        histogram(lengths.samples),
        {owner: percentiles(lengths.samples[owners == owner]) for owner in dict.fromkeys(owners.tolist())},
    )


def _names_of_files(request: StageRequest) -> dict[str, str]:
    """File of a row -> the datasets that read it."""
    import pyarrow.compute as pc

    names: dict[str, list[str]] = {}
    for loaded in (*request.train, *request.eval):
        if not hasattr(loaded.rows, "num_rows"):
            continue
        origins = loaded.rows.with_format("arrow").select_columns(["origin"])[:]["origin"]
        for file in pc.unique(pc.struct_field(origins, "file")).to_pylist():
            names.setdefault(file, []).append(loaded.entry.name)
    return {file: " + ".join(dict.fromkeys(owners)) for file, owners in names.items()}


def _fitting(request: StageRequest, prepared: Prepared, kind: str, train: Lengths | None) -> dict[int, int]:
    """The `cutoff_len` for each share of `FITTING`, rounded up; empty for packed text, of which nothing is cut."""
    if train is None or (kind == "text" and train.packed):
        return {}
    counts = [item for item in prepared.report.datasets if item.split == "train"]
    cut = any(item.truncated or item.rejections for item in counts)
    lengths = _whole_lengths(request, kind) if cut else train.samples
    return {
        percent: -(-length // _ROUND) * _ROUND for percent, length in percentiles(lengths, FITTING).items()
    }


def _whole_lengths(request: StageRequest, kind: str) -> np.ndarray[Any, Any]:
    """The lengths that the training rows would have without a limit; of pairs the longer side."""
    import numpy as np

    whole = WholeRows(request, kind)
    lengths: list[int] = []
    for loaded in request.train:
        total = getattr(loaded.rows, "num_rows", None)
        with Progress(f"measure {loaded.entry.name}", total, quiet_below=2) as progress:
            for batch in loaded.rows.iter(batch_size=_BATCH):
                names = list(batch)
                rows = [dict(zip(names, values, strict=True)) for values in zip(*batch.values(), strict=True)]
                found = whole.of(rows)
                lengths += [max(len(strip.ids) for strip in strips.values()) for strips in found if strips]
                progress.advance(len(rows))
    return np.array(lengths, "int64")
