"""What became of every row on its way from file to batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tkernel.types.dataset import DatasetReport, Rejection

FIRST = 20
"""Rejections that are remembered with their position; the others are counted."""


@dataclass(kw_only=True)
class Tally:
    """What became of some rows when they were encoded."""

    encoded: int = 0
    """Samples that can be trained on."""
    tokens: int = 0
    supervised: int = 0
    """Tokens that are learned."""
    truncated: int = 0
    """Samples that were longer than `cutoff_len`."""
    dropped: int = 0
    """Tokens that truncation cut off."""
    rejections: dict[str, int] = field(default_factory=dict)
    """Reason -> samples that could not be encoded."""
    rejected: list[Rejection] = field(default_factory=list)
    """The first of them."""

    def add(self, other: Tally) -> None:
        """Count the rows of `other`, which come after these."""
        for name in ("encoded", "tokens", "supervised", "truncated", "dropped"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for reason, count in other.rejections.items():
            self.rejections[reason] = self.rejections.get(reason, 0) + count
        self.rejected += other.rejected[: FIRST - len(self.rejected)]


@dataclass
class SampleCounts(Tally):
    """Counts of one dataset while it is encoded."""

    name: str
    rows: DatasetReport
    """What the dataset plugin read, kept and rejected."""
    split: str = "train"

    @property
    def reasons(self) -> dict[str, int]:
        """Why rows and samples were not used: reason -> how many."""
        merged = dict(self.rows.rejections)
        for reason, count in self.rejections.items():
            merged[reason] = merged.get(reason, 0) + count
        return merged

    @property
    def positions(self) -> list[Rejection]:
        """The first of those, rows before samples."""
        return [*self.rows.rejected, *self.rejected][:FIRST]


@dataclass
class PreparationReport:
    """Counts of all datasets of a run, and how many samples each split has."""

    datasets: list[SampleCounts] = field(default_factory=list)
    splits: dict[str, int] = field(default_factory=dict)
    """`training`, `evaluation` -> rows of the encoded data; a packed row holds several samples."""
    cutoff_len: int = 0
    seconds: float = 0.0
    """What encoding took when it was done."""
    left_over: int = 0
    """Tokens of packed text at the ends of batches that fill no row."""
    packed: bool = False
    cache: str | None = None
    """Whether the samples came out of the cache, and why not, in one line."""

    def total(self, name: str) -> int:
        """Sum of a count over all datasets."""
        return sum(getattr(counts, name) for counts in self.datasets)

    def lines(self) -> list[str]:
        """Lines for the screen: read, kept, learned; and, if there were any, rejected and truncated."""
        names = ", ".join(
            f"{counts.name} {counts.rows.read:,}{_in_brackets(counts.rows.notes)}"
            for counts in self.datasets[:6]
        )
        more = f" and {len(self.datasets) - 6} more" if len(self.datasets) > 6 else ""
        what = "rows " if self.packed else ""
        splits = ", ".join(f"{count:,} {what}for {name}" for name, count in self.splits.items())
        rows = sum(counts.rows.read for counts in self.datasets)
        tokens = self.total("tokens")
        found = (self.cache or "").startswith("hit")
        rate = f" in {self.seconds:.1f} s" if self.seconds and not found else ""
        rest = f", {self.left_over:,} left over" if self.left_over else ""
        mean = f", {tokens / self.total('encoded'):,.0f} a sample" if self.total("encoded") else ""
        share = f" ({self.total('supervised') / tokens:.0%})" if tokens else ""
        rejected, truncated = self._rejections(), self._truncations()
        none = ("" if rejected else ", none rejected") + (
            "" if truncated else f", none truncated (cutoff_len {self.cutoff_len:,})"
        )
        return [
            f"read       {rows:,} rows: {names}{more}",
            f"kept       {self.total('encoded'):,} samples: {splits}{none}",
            *([f"rejected   {rejected}"] if rejected else []),
            *([f"truncated  {truncated}"] if truncated else []),
            f"tokens     {tokens:,}{mean}; {self.total('supervised'):,}{share} are learned{rest}{rate}",
        ]

    def _rejections(self) -> str:
        reasons: dict[str, int] = {}
        for counts in self.datasets:
            for reason, count in counts.reasons.items():
                reasons[reason] = reasons.get(reason, 0) + count
        if not reasons:
            return ""
        first = next(position for counts in self.datasets for position in counts.positions)
        listed = sorted(reasons.items(), key=lambda item: -item[1])
        shown = ", ".join(f"{count:,} {reason}" for reason, count in listed[:3])
        more = f" and {len(listed) - 3} other reasons" if len(listed) > 3 else ""
        return f"{sum(reasons.values()):,}: {shown}{more}; first {first.place}"

    def _truncations(self) -> str:
        truncated = self.total("truncated")
        if not truncated:
            return ""
        return (
            f"{truncated:,} samples to cutoff_len {self.cutoff_len:,}, {self.total('dropped'):,} tokens lost"
        )

    def to_json(self) -> Mapping[str, Any]:
        """All counts, as plain values."""
        return {
            "cutoff_len": self.cutoff_len,
            "seconds": self.seconds,
            "cache": self.cache,
            "packed": self.packed,
            "tokens_left_over": self.left_over,
            "splits": dict(self.splits),
            "datasets": [
                {
                    "name": counts.name,
                    "split": counts.split,
                    "read": counts.rows.read,
                    "kept": counts.encoded,
                    "tokens": counts.tokens,
                    "supervised_tokens": counts.supervised,
                    "truncated": counts.truncated,
                    "tokens_lost": counts.dropped,
                    "rejected": counts.reasons,
                    "first_rejected": [asdict(position) for position in counts.positions],
                    "notes": list(counts.rows.notes),
                }
                for counts in self.datasets
            ],
        }

    def stored(self) -> dict[str, Any]:
        """All of it as plain values, from which `restored` makes it again."""
        return asdict(self)

    @classmethod
    def restored(cls, values: Mapping[str, Any]) -> PreparationReport:
        """The report that `stored` described.

        Raises:
            KeyError, TypeError: the values are of another kind.
        """
        datasets = []
        for counts in values["datasets"]:
            rejected = [Rejection(**item) for item in counts["rejected"]]
            of_rows = [Rejection(**item) for item in counts["rows"]["rejected"]]
            rows = DatasetReport(**{**counts["rows"], "rejected": of_rows})
            datasets.append(SampleCounts(**{**counts, "rows": rows, "rejected": rejected}))
        return cls(**{**values, "datasets": datasets})


def _in_brackets(notes: Sequence[str]) -> str:
    return f" ({'; '.join(notes)})" if notes else ""
