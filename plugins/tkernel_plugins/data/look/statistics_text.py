"""Statistics as lines, as plain values and as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tkernel_plugins.data.look.as_json import FORMAT
from tkernel_plugins.data.look.on_terminal import Line
from tkernel_plugins.data.look.pieces import visible
from tkernel_plugins.data.look.statistics import PERCENTILES, SplitStatistics, Statistics
from tkernel_plugins.data.report import SampleCounts

_PARTS = " ▏▎▍▌▋▊▉█"


def statistics_lines(found: Statistics, columns: int) -> Iterator[Line]:
    """Lines for a screen of so many columns."""
    for split in found.splits:
        yield from _split_lines(split, columns)
    yield [("datasets", "head")]
    for counts in found.counts:
        yield [(_dataset_text(counts), "")]
    if found.batches is not None and found.steps is not None:
        yield [("training", "head")]
        yield from ([(text, "")] for text in _training_texts(found))
    if found.fitting:
        yield [("cutoff_len that leaves so many of the training rows whole", "head")]
        cells = [f"{percent} %: {length:,}" for percent, length in found.fitting.items()]
        yield [(f"  {'   '.join(cells)}   (now {found.cutoff_len:,})", "")]


def _split_lines(split: SplitStatistics, columns: int) -> Iterator[Line]:
    share = f" ({split.supervised / split.tokens:.0%})" if split.tokens else ""
    yield [(f"{visible(split.name)}: {_many(split.samples, 'sample')}", "head")]
    yield [
        (
            f"  {split.tokens:,} tokens, {split.mean:,.1f} a sample; {split.supervised:,}{share} are learned",
            "",
        )
    ]
    if not split.percentiles:
        return
    yield [("  length in tokens, by percent of the samples", "")]
    rows = (
        [("", split.percentiles)]
        if len(split.datasets) < 2
        else [("all", split.percentiles), *split.datasets.items()]
    )
    names = [visible(name) for name, _ in rows]
    wide = max(map(len, names))
    cells = [[f"{value:,}" for value in values.values()] for _, values in rows]
    heads = [f"{percent} %" for percent in PERCENTILES]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    for name, row in zip(["", *names], [heads, *cells], strict=True):
        text = "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        yield [(f"  {name.ljust(wide)}  {text}" if wide else f"  {text}", "note" if row is heads else "")]
    yield from _histogram_lines(split, columns)


def _histogram_lines(split: SplitStatistics, columns: int) -> Iterator[Line]:
    labels = [
        f"{bin.start:,} to {bin.stop:,}" if bin.stop > bin.start else f"{bin.start:,}"
        for bin in split.histogram
    ]
    counts = [f"{bin.count:,}" for bin in split.histogram]
    wide, count_wide = max(map(len, labels)), max(map(len, counts))
    room = max(min(columns, 100) - wide - count_wide - 8, 10)
    most = max(bin.count for bin in split.histogram)
    for bin, label, count in zip(split.histogram, labels, counts, strict=True):
        eighths = round(bin.count / most * room * 8)
        # What is there is seen, however little it is.
        eighths = max(eighths, 1) if bin.count else 0
        bar = "█" * (eighths // 8) + (_PARTS[eighths % 8] if eighths % 8 else "")
        yield [(f"  {label.rjust(wide)}  {count.rjust(count_wide)}  ", "note"), (bar, "learned")]


def _dataset_text(counts: SampleCounts) -> str:
    rejected = sum(counts.reasons.values())
    # Rows that were read and could not be used count, whether a format or a template refused them.
    read = max(counts.rows.read, 1)
    samples = max(counts.encoded, 1)
    return (
        f"  {visible(counts.name)} ({counts.split}): {counts.rows.read:,} rows read, {counts.encoded:,} samples, "
        f"{counts.tokens:,} tokens, {counts.supervised:,} learned; "
        f"{counts.truncated:,} truncated ({counts.truncated / samples:.1%}, {counts.dropped:,} tokens lost), "
        f"{rejected:,} rejected ({rejected / read:.1%})"
    )


def _training_texts(found: Statistics) -> Iterator[str]:
    batches, steps, packed = found.batches, found.steps, found.packed
    assert batches is not None
    assert steps is not None
    yield (
        f"  {_many(batches.count, 'micro-batch', 'es')} of {batches.size} in {batches.order} order: "
        f"{batches.waste:.1%} of {batches.padded:,} tokens are padding"
    )
    if packed is not None:
        yield (
            f"  packed to {_many(packed.rows, 'row')} of {packed.samples_per_row:.1f} samples, "
            f"{packed.efficiency:.1%} full"
        )
    several = f", {steps.world_size} processes" if steps.world_size > 1 else ""
    yield (
        f"  {_many(steps.per_epoch, 'step')} an epoch (accumulation {steps.accumulation}{several}), "
        f"{steps.total:,} in all ({steps.epochs:g} epochs)"
    )


def _many(count: int, name: str, ending: str = "s") -> str:
    return f"{count:,} {name}{'' if count == 1 else ending}"


def statistics_json(found: Statistics) -> dict[str, Any]:
    """All numbers, as plain values."""
    return {
        "format": FORMAT,
        "cutoff_len": found.cutoff_len,
        "splits": {split.name: _split_json(split) for split in found.splits},
        "datasets": [_dataset_json(counts) for counts in found.counts],
        "batches": None
        if found.batches is None
        else {**asdict(found.batches), "padding_share": found.batches.waste},
        "packing": None if found.packed is None else asdict(found.packed),
        "steps": None if found.steps is None else asdict(found.steps),
        "fitting_cutoff_len": {str(percent): length for percent, length in found.fitting.items()},
    }


def _split_json(split: SplitStatistics) -> dict[str, Any]:
    def by_percent(values: Any) -> dict[str, int]:
        return {str(percent): length for percent, length in values.items()}

    return {
        "samples": split.samples,
        "tokens": split.tokens,
        "supervised_tokens": split.supervised,
        "mean_length": split.mean,
        "percentiles": by_percent(split.percentiles),
        "histogram": [asdict(bin) for bin in split.histogram],
        "percentiles_by_dataset": {name: by_percent(values) for name, values in split.datasets.items()},
    }


def _dataset_json(counts: SampleCounts) -> dict[str, Any]:
    rejected = sum(counts.reasons.values())
    return {
        "name": counts.name,
        "split": counts.split,
        "read": counts.rows.read,
        "samples": counts.encoded,
        "tokens": counts.tokens,
        "supervised_tokens": counts.supervised,
        "truncated": counts.truncated,
        "truncated_share": counts.truncated / max(counts.encoded, 1),
        "tokens_lost": counts.dropped,
        "rejected": rejected,
        "rejected_share": rejected / max(counts.rows.read, 1),
        "reasons": counts.reasons,
    }


def draw(found: Statistics, file: Path) -> None:
    """Write the histograms of all splits as a PNG, with a line at `cutoff_len`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2 * max(len(found.splits), 1)), layout="constrained")
    FigureCanvasAgg(figure)
    for number, split in enumerate(found.splits, start=1):
        axes = figure.add_subplot(len(found.splits), 1, number)
        widths = [bin.stop - bin.start + 1 for bin in split.histogram]
        starts = [bin.start for bin in split.histogram]
        axes.bar(starts, [bin.count for bin in split.histogram], widths, align="edge", edgecolor="white")
        if split.histogram and found.cutoff_len <= 1.5 * split.histogram[-1].stop:
            axes.axvline(found.cutoff_len, color="tab:red", label=f"cutoff_len {found.cutoff_len:,}")
            axes.legend()
        # A name is text; between dollar signs it would be mathematics.
        title = f"{split.name}: {split.samples:,} samples, {split.tokens:,} tokens"
        axes.set_title(title, parse_math=False)
        axes.set_xlabel("length in tokens")
        axes.set_ylabel("samples")
    figure.savefig(file, format="png", dpi=120)
