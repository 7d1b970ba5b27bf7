"""The columns of a dataset's first row, from which its format is told before anything is loaded.

What is heavy or elsewhere (Parquet, a URL, a hub) is looked at by a child process, `python -m` of this
module, so that planning imports neither numpy nor a client.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice

from tkernel.errors import DataError, TkError
from tkernel.types.dataset import DatasetEntry
from tkernel_plugins.data.compressed import suffixes
from tkernel_plugins.data.raw import RawRow
from tkernel_plugins.data.sources import files_of, raw_rows

ROWS = 100
"""So many rows are looked at for the first that can be read."""

PATIENCE = 60.0
"""Seconds that the child process may take."""

LIGHT = (".json", ".jsonl", ".csv", ".txt")
"""Kinds of files that the standard library reads."""


def columns_of(entry: DatasetEntry, patience: float = PATIENCE) -> tuple[str, ...]:
    """Names of the columns of the first row that can be read; a server has `patience` seconds to answer.

    Raises:
        DataError: there is none, with what is wrong with the file; or it cannot be seen from here.
    """
    if entry.source in ("ms_hub", "om_hub"):
        raise DataError(
            f"the columns of {entry.location} are not known before it is downloaded",
            hint="Declare it in dataset_info.json, with `formatting`.",
        )
    if entry.source == "file" and suffixes(str(files_of(entry)[0]))[0] in LIGHT:
        return _first(raw_rows(entry), entry)
    if entry.location.startswith("memory://"):  # fsspec's store, which no other process can see
        return _first(raw_rows(entry), entry)
    return _seen_by_a_child(entry, patience)


def _first(rows: Iterator[RawRow], entry: DatasetEntry) -> tuple[str, ...]:
    problem = f"{entry.location} has no rows"
    for number, raw in enumerate(islice(rows, ROWS)):
        if isinstance(raw.value, dict):
            return tuple(map(str, raw.value))
        if number == 0:
            place = f"{raw.file}:{raw.line}" if raw.line else f"{raw.file} row {raw.row}"
            problem = f"{place}: {raw.problem or 'a row must be an object'}"
    raise DataError(problem)


def _seen_by_a_child(entry: DatasetEntry, patience: float) -> tuple[str, ...]:
    command = [sys.executable, "-P", "-m", __name__]  # -P: no module of the working directory is imported
    given = json.dumps({**asdict(entry), "data": None})
    try:
        child = subprocess.run(
            command, input=given, capture_output=True, text=True, check=False, timeout=patience
        )
        seen = json.loads(child.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        seen = {"message": f"{entry.location} did not answer within {patience:.0f} seconds"}
    except (IndexError, ValueError):
        last = (child.stderr.strip().splitlines() or ["no output"])[-1]
        seen = {"message": f"{entry.location} cannot be looked at: {last}"}
    if "columns" in seen:
        return tuple(seen["columns"])
    local = entry.source == "file"
    told = "Declare it in dataset_info.json, with `formatting`, to plan without looking at its rows."
    raise DataError(
        seen["message"], hint=seen.get("hint") if local else f"{seen.get('hint') or ''} {told}".strip()
    )


def main() -> None:
    """Look for a parent: an entry as JSON on standard input, the answer as the last line of the output."""
    entry = DatasetEntry(**json.load(sys.stdin))
    try:
        seen: dict[str, object] = {"columns": _first(raw_rows(entry, streaming=True), entry)}
    except TkError as error:
        seen = {"message": error.message, "hint": error.hint}
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
