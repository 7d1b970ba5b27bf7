"""`tk data view --find rejected`: the rows that no sample came from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from tkernel_plugins.commands.data_run import DataRun

if TYPE_CHECKING:
    from tkernel_plugins.data.look.on_terminal import Line


def show_rejected(run: DataRun, *, as_json: bool, html: Path | None) -> None:
    """Every row that is remembered with its position and reason, and how many there are for each reason."""
    from tkernel_plugins.data.look.as_json import FORMAT, rejection_json
    from tkernel_plugins.data.look.on_page import page_html
    from tkernel_plugins.data.look.on_terminal import show

    report = run.prepared.report
    reasons: dict[str, int] = {}
    for counts in report.datasets:
        for reason, number in counts.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + number
    if as_json:
        listed = [
            rejection_json(item, counts.name) for counts in report.datasets for item in counts.positions
        ]
        values = {"format": FORMAT, "file": run.file, "rows": run.kind, "find": "rejected"}
        print(json.dumps({**values, "found": sum(reasons.values()), "reasons": reasons, "rejected": listed}))
    lines = list(_lines(run, reasons))
    if html is not None:
        from tkernel_plugins.commands.data_view import write

        body = [f"<p>{escape(''.join(text for text, _ in line))}</p>" for line in lines]
        write(html, page_html(f"{run.file}: rows that are not used", body))
    elif not as_json:
        show(lines)


def _lines(run: DataRun, reasons: dict[str, int]) -> Iterator[Line]:
    from tkernel_plugins.data.look.pieces import visible

    report = run.prepared.report
    rows = sum(counts.rows.read for counts in report.datasets)
    total = sum(reasons.values())
    yield [(f"{total:,} of {rows:,} rows are not used", "head")]
    for reason, number in sorted(reasons.items(), key=lambda item: -item[1]):
        yield [(f"  {number:,} {visible(reason)}", "")]
    listed = 0
    for counts in report.datasets:
        if counts.positions:
            yield [(f"dataset {visible(counts.name)} ({counts.split})", "head")]
        for rejection in counts.positions:
            listed += 1
            yield [(f"  {visible(rejection.place)}: {visible(rejection.reason)}", "")]
    if total > listed:
        yield [(f"  and {total - listed:,} more; of each dataset the first are remembered", "note")]
