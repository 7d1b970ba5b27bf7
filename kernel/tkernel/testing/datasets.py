"""The contract of dataset plugins (`load_dataset`)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tkernel.errors import DataError
from tkernel.testing.contract import Contract
from tkernel.types.conversation import ROLES, message_from_dict, message_to_dict
from tkernel.types.dataset import DatasetEntry, DatasetReport
from tkernel.types.requests import DatasetRequest

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "text": ("text",),
    "supervised": ("messages", "tools"),
    "preference": ("messages", "chosen", "rejected"),
    "feedback": ("messages", "completion", "label"),
    "prompt": ("messages",),
}
"""Kind of rows -> its columns; `origin` and those of media come on top."""
OPTIONAL = ("tools", "images", "videos", "audios")

ODD: tuple[Any, ...] = (None, True, 7, 1e300, "", "\0", "\ud800", [], {}, [[]], ["text"], {"odd": None})
"""What may stand in a file where something else is expected."""

_QUESTIONS = ("Who runs the inn?", "Where is the naïve café? 😀", "How much is 12 and 12?")
_ANSWERS = ("The user does.", "Behind the inn.\nOn the left.", "It is 24.")


def _pairs(make: Any) -> tuple[Any, ...]:
    return tuple(make(question, answer) for question, answer in zip(_QUESTIONS, _ANSWERS, strict=True))


EXAMPLES: Mapping[str, tuple[dict[str, Any], ...]] = {
    "alpaca": _pairs(lambda q, a: {"instruction": q, "input": "", "output": a}),
    "sharegpt": _pairs(
        lambda q, a: {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
    ),
    "openai": _pairs(
        lambda q, a: {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
    ),
    "text": _pairs(lambda q, a: {"text": f"{q} {a}"}),
}
"""Raw rows of the formats that come with tk; all say the same."""
ALIASES = {"instruction": "alpaca", "conversations": "sharegpt", "messages": "openai"}
SAID = _pairs(lambda q, a: [("user", q), ("assistant", a)])
"""What the rows in `EXAMPLES` say: the role and the content of each message."""


class DatasetContract(Contract):
    """Canonical rows, their origin and their counts, from files that the suite writes."""

    kind = "dataset"
    rows: ClassVar[str | None] = None
    """The kind of rows that is asked for and expected; default: the plugin's own `rows`, else the first of its
    `kinds`, else `supervised`."""
    examples: ClassVar[Sequence[Mapping[str, Any]] | None] = None
    """Three or more raw rows that are good; default: those of the plugin's own `examples`, or of the format
    that comes with tk under this name."""
    said: ClassVar[Sequence[Sequence[tuple[str, str]]] | None] = None
    """Role and content of each message of each example; default: those of `EXAMPLES`."""
    bad_row: ClassVar[Mapping[str, Any] | None] = None
    """A raw row that must be rejected; default: the keys of the first example, without values."""
    columns: ClassVar[Mapping[str, str] | None] = None
    tags: ClassVar[Mapping[str, str] | None] = None
    drop: ClassVar[Mapping[str, Any]] = {"on_bad_row": "drop"}
    """The option that drops bad rows instead of raising."""

    @property
    def kind_of_rows(self) -> str:
        """The kind of rows that is asked for."""
        kinds = getattr(self.provider, "kinds", lambda entry: ())
        found = kinds(DatasetEntry("contract", "rows.jsonl", formatting=self.name)) or ("supervised",)
        return str(self.rows or getattr(self.provider, "rows", found[0]))

    @property
    def form(self) -> str:
        """The format, also where the plugin is named after columns that it is told by."""
        first = self.name.partition("+")[0]
        return ALIASES.get(first, first)

    def raw_rows(self) -> list[dict[str, Any]]:
        """The good raw rows."""
        known = EXAMPLES.get(self.form)
        rows = self.examples or getattr(self.provider, "examples", known)
        if rows is None:
            raise TypeError(
                f"the format {self.name!r} needs three good raw rows: `examples` of the plugin or of "
                f"{type(self).__name__}"
            )
        return [dict(row) for row in rows]

    def expected(self) -> list[list[tuple[str, str]]] | None:
        """What the rows say, if it is known."""
        if self.said is not None:
            return [list(messages) for messages in self.said]
        known = self.raw_rows() == list(EXAMPLES.get(self.form, ()))
        return [list(messages) for messages in SAID] if known and self.kind_of_rows == "supervised" else None

    def rejected_row(self) -> dict[str, Any]:
        """A row that must be rejected."""
        return dict(self.bad_row) if self.bad_row is not None else dict.fromkeys(self.raw_rows()[0])

    @property
    def streams(self) -> bool:
        """Whether the plugin has the option `streaming`. One that has not reads whole data in every run."""
        declared = getattr(self.provider, "Options", None)
        return declared is not None and "streaming" in {field.name for field in dataclasses.fields(declared)}

    def call(
        self, file: Path, *, num_samples: int | None = None, **options: Any
    ) -> tuple[Any, DatasetReport]:
        """Call the hook: the dataset, and the report that the plugin fills."""
        ranking = self.kind_of_rows == "preference"
        declared: dict[str, Any] = {"columns": self.columns, "tags": self.tags, "ranking": ranking}
        declared["num_samples"] = num_samples
        entry = DatasetEntry("contract", str(file), formatting=self.name, **declared)
        report = DatasetReport("contract")
        request = DatasetRequest(entry, report, self.kind_of_rows, self.bound_options(**options))
        return self.provider.load_dataset(request), report

    def load(self, file: Path, **options: Any) -> tuple[list[dict[str, Any]], DatasetReport, Any]:
        """As `call`, with the rows as dicts first."""
        dataset, report = self.call(file, **options)
        return list(dataset), report, dataset

    def test_columns_are_canonical(self, tmp_path: Path) -> None:
        """The columns of the kind of rows, `origin`, columns of media, and no others."""
        rows, _, dataset = self.load(write_jsonl(tmp_path / "rows.jsonl", self.raw_rows()))
        required = {*COLUMNS[self.kind_of_rows], "origin"}
        assert required <= set(dataset.column_names) <= {*required, *OPTIONAL}
        assert all(row.keys() == set(dataset.column_names) for row in rows)

    def test_values_are_canonical(self, tmp_path: Path) -> None:
        """Messages have all their keys and a known role, tools are JSON text, labels are booleans."""
        rows, _, _ = self.load(write_jsonl(tmp_path / "rows.jsonl", self.raw_rows()))
        for row in rows:
            for name in ("messages", "chosen", "rejected", "completion"):
                for message in row.get(name) or ():
                    assert message == message_to_dict(message_from_dict(message))
                    assert message["role"] in ROLES
            if row.get("tools"):
                assert isinstance(json.loads(row["tools"]), list)
            assert isinstance(row.get("label", True), bool)
            assert isinstance(row.get("text", ""), str)

    def test_types_do_not_depend_on_the_rows(self, tmp_path: Path) -> None:
        """Datasets of one kind of rows can be put together: their Arrow types are the same."""
        rows = self.raw_rows()
        _, _, whole = self.load(write_jsonl(tmp_path / "whole.jsonl", rows))
        for position, row in enumerate(rows):
            _, _, single = self.load(write_jsonl(tmp_path / f"{position}.jsonl", [row]))
            assert single.features == whole.features

    def test_rows_say_what_the_file_says(self, tmp_path: Path) -> None:
        """Every message is there, with its role, in the order of the file."""
        rows, _, _ = self.load(write_jsonl(tmp_path / "rows.jsonl", self.raw_rows()))
        expected = self.expected()
        if expected is not None:
            found = [[(m["role"], m["content"]) for m in row["messages"]] for row in rows]
            assert found == expected
        for row, raw in zip(rows, self.raw_rows(), strict=True):
            text = "\n".join(_strings(row))
            assert [said for said in _strings(raw) if " " in said and said not in text] == []

    def test_origin_is_where_the_row_was(self, tmp_path: Path) -> None:
        """`origin` names file, row (from 0) and line (from 1), blank lines counted."""
        raw = self.raw_rows()
        lines = [json.dumps(raw[0]), "", *(json.dumps(row) for row in raw[1:])]
        file = tmp_path / "rows.jsonl"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        rows, _, _ = self.load(file)
        origins = [row["origin"] for row in rows]
        assert [origin["row"] for origin in origins] == list(range(len(raw)))
        assert [origin["line"] for origin in origins] == [1, *range(3, len(raw) + 2)]
        assert all(Path(origin["file"]).name == file.name for origin in origins)

    def test_the_line_of_a_row_is_the_line_that_holds_it(self, tmp_path: Path) -> None:
        """In a JSON array of many lines too, if the plugin gives a line there at all."""
        raw = self.raw_rows()
        text = json.dumps(raw, indent=1)
        (tmp_path / "rows.json").write_text(text, encoding="utf-8")
        starts = [number for number, line in enumerate(text.splitlines(), start=1) if line == " {"]
        rows, _, _ = self.load(tmp_path / "rows.json")
        lines = [row["origin"]["line"] for row in rows]
        assert lines in ([None] * len(rows), starts[: len(rows)])

    def test_reading_again_gives_the_same_rows_in_the_same_order(self, tmp_path: Path) -> None:
        """The order is that of the file, every time."""
        file = write_jsonl(tmp_path / "rows.jsonl", self.raw_rows() * 3)
        first, again = self.load(file)[0], self.load(file)[0]
        assert first == again
        assert [row["origin"]["row"] for row in first] == list(range(len(first)))

    def test_num_samples_is_followed_or_refused(self, tmp_path: Path) -> None:
        """So many rows, each at most once while there are enough, the same in every run; or a DataError."""
        raw = self.raw_rows() * 3
        file = write_jsonl(tmp_path / "rows.jsonl", raw)
        for wanted in (len(raw) - 2, len(raw) + 2):
            try:
                rows = self.load(file, num_samples=wanted)[0]
            except DataError:
                continue
            drawn = [row["origin"]["row"] for row in rows]
            assert (len(drawn), len(set(drawn))) == (wanted, min(wanted, len(raw)))
            assert rows == self.load(file, num_samples=wanted)[0]

    def test_a_stream_gives_the_rows_of_the_whole_data(self, tmp_path: Path) -> None:
        """With the option `streaming`: the same rows as without, in the same order, in every pass, and the
        same counts, to which a second pass adds nothing."""
        raw = self.raw_rows()
        file = write_jsonl(tmp_path / "rows.jsonl", [*raw, self.rejected_row(), *raw])
        if self.streams:
            whole, counted, _ = self.load(file, **self.drop)
            stream, report = self.call(file, streaming=True, **self.drop)
            for _ in range(2):
                assert [_with_content(row) for row in stream] == [_with_content(row) for row in whole]
                assert report == counted

    def test_a_stream_reads_while_it_is_used(self, tmp_path: Path) -> None:
        """With the option `streaming`: the first row is there before the last one is read."""
        rows = self.raw_rows() * 500
        file = write_jsonl(tmp_path / "rows.jsonl", rows)
        if self.streams:
            stream, report = self.call(file, streaming=True)
            assert not hasattr(stream, "num_rows")
            next(iter(stream))
            assert 0 < report.read < len(rows)

    def test_json_and_jsonl_give_the_same_rows(self, tmp_path: Path) -> None:
        """A JSON array and a file of JSON lines with the same objects give the same rows."""
        raw = self.raw_rows()
        array = tmp_path / "rows.json"
        array.write_text(json.dumps(raw, indent=2, ensure_ascii=False), encoding="utf-8")
        from_array, report, _ = self.load(array)
        from_lines, _, _ = self.load(write_jsonl(tmp_path / "rows.jsonl", raw))
        assert report.kept == len(raw)
        assert [_without_origin(row) for row in from_array] == [_without_origin(row) for row in from_lines]

    def test_counts_add_up(self, tmp_path: Path) -> None:
        """Read is kept plus rejected, and kept is the number of rows."""
        raw = self.raw_rows()
        file = write_jsonl(tmp_path / "rows.jsonl", [*raw, self.rejected_row(), *raw])
        rows, report, _ = self.load(file, **self.drop)
        assert report.read == 2 * len(raw) + 1
        assert report.kept == len(rows) == 2 * len(raw)
        assert sum(report.rejections.values()) == 1

    def test_a_bad_row_is_an_error_that_names_its_line(self, tmp_path: Path) -> None:
        """By default the first bad row raises a DataError with `file:line`."""
        raw = self.raw_rows()
        file = write_jsonl(tmp_path / "rows.jsonl", [raw[0], self.rejected_row(), *raw[1:]])
        with pytest.raises(DataError) as caught:
            self.load(file)
        assert "rows.jsonl:2" in str(caught.value)

    def test_a_dropped_row_is_named_and_leaves_the_others_alone(self, tmp_path: Path) -> None:
        """With `drop` the report names file, row, line and reason; the good rows are all there."""
        raw = self.raw_rows()
        file = write_jsonl(tmp_path / "rows.jsonl", [raw[0], self.rejected_row(), *raw[1:]])
        rows, report, _ = self.load(file, **self.drop)
        good, _, _ = self.load(write_jsonl(tmp_path / "good.jsonl", raw))
        assert [_without_origin(row) for row in rows] == [_without_origin(row) for row in good]
        assert [row["origin"]["row"] for row in rows] == [0, *range(2, len(raw) + 1)]
        (rejection,) = report.rejected
        assert (Path(rejection.file).name, rejection.row, rejection.line) == ("rows.jsonl", 1, 2)
        assert rejection.reason

    def test_broken_json_is_an_error_that_names_its_line(self, tmp_path: Path) -> None:
        """A line that is not JSON raises a DataError with `file:line`."""
        raw = [json.dumps(row) for row in self.raw_rows()]
        file = tmp_path / "rows.jsonl"
        file.write_text("\n".join([raw[0], raw[1][:-5], *raw[2:]]) + "\n", encoding="utf-8")
        with pytest.raises(DataError) as caught:
            self.load(file)
        assert "rows.jsonl:2" in str(caught.value)

    def test_text_that_is_not_unicode_is_an_error_that_names_its_line(self, tmp_path: Path) -> None:
        """A line whose bytes are not UTF-8 raises a DataError with `file:line`."""
        raw = [json.dumps(row, ensure_ascii=False).encode() for row in self.raw_rows()]
        raw[1] = b'{"Gr\xfc\xdfe": 1}'
        file = tmp_path / "rows.jsonl"
        file.write_bytes(b"\n".join(raw) + b"\n")
        with pytest.raises(DataError) as caught:
            self.load(file)
        assert "rows.jsonl:2" in str(caught.value)

    def test_odd_values_are_read_or_counted(self, tmp_path: Path) -> None:
        """Whatever a value of a row is replaced by, the row is kept or, with `drop`, rejected and counted."""
        raw = self.raw_rows()
        odd = list(_odd(raw[0]))
        file = tmp_path / "rows.jsonl"
        lines = (json.dumps(row) for row in [raw[0], *odd, 7, None, "text", ["list"], raw[1]])
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        rows, report, _ = self.load(file, **self.drop)
        assert report.read == len(odd) + 6
        assert report.kept == len(rows) == report.read - sum(report.rejections.values())
        assert [row["origin"]["row"] for row in (rows[0], rows[-1])] == [0, report.read - 1]

    def test_a_file_without_rows_is_an_error_that_names_it(self, tmp_path: Path) -> None:
        """An empty file, or one of blank lines, raises a DataError with its name."""
        for content in ("", "\n \n"):
            (tmp_path / "nothing.jsonl").write_text(content)
            with pytest.raises(DataError) as caught:
                self.load(tmp_path / "nothing.jsonl")
            assert "nothing.jsonl" in str(caught.value)

    def test_a_kind_of_rows_that_it_does_not_have_is_refused(self, tmp_path: Path) -> None:
        """Where the plugin says in `kinds` what an entry yields, asking for another kind is a DataError."""
        file = write_jsonl(tmp_path / "rows.jsonl", self.raw_rows())
        ranking = self.kind_of_rows == "preference"
        declared: dict[str, Any] = {"columns": self.columns, "tags": self.tags, "ranking": ranking}
        entry = DatasetEntry("contract", str(file), formatting=self.name, **declared)
        kinds = getattr(self.provider, "kinds", lambda entry: ())(entry)
        for kind in set(COLUMNS).difference(kinds) if kinds else ():
            request = DatasetRequest(entry, DatasetReport("contract"), kind, self.bound_options())
            with pytest.raises(DataError):
                list(self.provider.load_dataset(request))

    def test_a_missing_file_is_an_error_that_names_it(self, tmp_path: Path) -> None:
        """A file that is not there raises a DataError with its name."""
        with pytest.raises(DataError) as caught:
            self.load(tmp_path / "absent.jsonl")
        assert "absent.jsonl" in str(caught.value)


def write_jsonl(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def _without_origin(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "origin"}


def _with_content(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without media columns that are empty, and with plain paths: a stream cannot know which to have."""
    plain = dict(row)
    for name in OPTIONAL[1:]:
        items = plain.pop(name, None)
        if items:
            bare = [item for item in items if not isinstance(item, Mapping) or item["bytes"] is not None]
            plain[name] = bare or [item["path"] for item in items]
    return plain


def _odd(value: Any) -> Iterator[Any]:
    """`value` with each value inside it replaced by each of `ODD`."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        for changed in (*ODD, *_odd(item)):
            copy = dict(value) if isinstance(value, dict) else list(value)
            copy[key] = changed
            yield copy


def _strings(value: Any) -> list[str]:
    """Every string inside a value."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [text for item in inner for text in _strings(item)]
