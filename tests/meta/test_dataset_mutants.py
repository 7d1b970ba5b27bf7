"""Every check of the dataset contract notices the mistake that it is there for."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import pairwise

import datasets
import pytest
import tk_demo_dataset
from mutation import Mutants
from tk_demo_dataset import DATASET, Options

from tkernel import Message, hookimpl
from tkernel.errors import DataError
from tkernel.testing import DatasetContract
from tkernel.types.conversation import message_to_dict
from tkernel.types.dataset import Rejection

MUTANTS = Mutants(DatasetContract, examples=DATASET.examples)


class Changed:
    """The right format; a mutant overrides what it changes of the rows or of the call."""

    name, Options = "demo", Options

    @hookimpl
    def load_dataset(self, request):
        return self.change(DATASET.load_dataset(request), request)

    def change(self, dataset, request):
        return dataset

    def map_rows(self, dataset, function):
        return datasets.Dataset.from_list([function(dict(row)) for row in dataset], features=dataset.features)


@MUTANTS.breaks("test_columns_are_canonical")
class KeepsAColumnOfItsOwn(Changed):
    def change(self, dataset, request):
        return dataset.add_column("length", [1] * len(dataset))


@MUTANTS.breaks("test_values_are_canonical")
class CallsTheUserHuman(Changed):
    def change(self, dataset, request):
        def rename(row):
            messages = [{**m, "role": "human" if m["role"] == "user" else m["role"]} for m in row["messages"]]
            return {**row, "messages": messages}

        return self.map_rows(dataset, rename)


@MUTANTS.breaks("test_types_do_not_depend_on_the_rows")
class InfersTheTypes(Changed):
    def change(self, dataset, request):
        def first_has_tools(row):
            return {**row, "tools": "[]" if len(rows) > 1 else None}

        rows = list(dataset)
        return datasets.Dataset.from_list([first_has_tools(row) for row in rows])


@MUTANTS.breaks("test_rows_say_what_the_file_says")
class StripsWhatIsNotAscii(Changed):
    def change(self, dataset, request):
        def ascii_only(row):
            messages = [
                {**m, "content": m["content"].encode("ascii", "ignore").decode()} for m in row["messages"]
            ]
            return {**row, "messages": messages}

        return self.map_rows(dataset, ascii_only)


@MUTANTS.breaks("test_origin_is_where_the_row_was")
class DoesNotCountBlankLines(Changed):
    def change(self, dataset, request):
        def renumber(row):
            line = row["origin"]["line"]
            return {**row, "origin": {**row["origin"], "line": line and row["origin"]["row"] + 1}}

        return self.map_rows(dataset, renumber)


@MUTANTS.breaks("test_json_and_jsonl_give_the_same_rows")
class LosesTheLastRowOfAnArray(Changed):
    def change(self, dataset, request):
        return dataset.select(range(len(dataset) - 1)) if request.entry.path.suffix == ".json" else dataset


@MUTANTS.breaks("test_counts_add_up", "test_odd_values_are_read_or_counted")
class CountsOnlyWhatItKeeps(Changed):
    def change(self, dataset, request):
        request.report.read = request.report.kept
        return dataset


@MUTANTS.breaks("test_a_bad_row_is_an_error_that_names_its_line")
class NamesNoLine(Changed):
    @hookimpl
    def load_dataset(self, request):
        try:
            return super().load_dataset(request)
        except DataError as error:
            if "no question" in str(error):
                raise DataError("a row has no question or no answer") from error
            raise


@MUTANTS.breaks("test_a_dropped_row_is_named_and_leaves_the_others_alone")
class DropsWithoutAName(Changed):
    def change(self, dataset, request):
        request.report.rejected.clear()
        return dataset


@MUTANTS.breaks(
    "test_broken_json_is_an_error_that_names_its_line",
    "test_text_that_is_not_unicode_is_an_error_that_names_its_line",
)
class SkipsBrokenLines(Changed):
    @hookimpl
    def load_dataset(self, request):
        def valid(line):
            try:
                json.loads(line)
            except json.JSONDecodeError:
                return not line.strip()
            return True

        file = request.entry.path
        if file.suffix == ".jsonl" and file.is_file():
            lines = [line for line in file.read_text().splitlines() if valid(line)]
            file.write_text("\n".join(lines))
        return super().load_dataset(request)


@MUTANTS.breaks("test_a_missing_file_is_an_error_that_names_it")
class ReadsNothingFromNowhere(Changed):
    @hookimpl
    def load_dataset(self, request):
        if request.entry.path.is_file():
            return super().load_dataset(request)
        return datasets.Dataset.from_list([])


@MUTANTS.breaks("test_text_that_is_not_unicode_is_an_error_that_names_its_line")
class ReplacesWhatIsNotUnicode(Changed):
    @hookimpl
    def load_dataset(self, request):
        file = request.entry.path
        if file.is_file() and b"\xfc" in file.read_bytes():
            file.write_text('{"question": "q", "answer": "a"}\n' * 3)
        return super().load_dataset(request)


@MUTANTS.breaks("test_odd_values_are_read_or_counted")
class FailsOnNumbers(Changed):
    @hookimpl
    def load_dataset(self, request):
        file = request.entry.path
        if file.is_file() and b": 7" in file.read_bytes():
            raise TypeError("argument of type 'int' is not iterable")
        return super().load_dataset(request)


@MUTANTS.breaks("test_a_file_without_rows_is_an_error_that_names_it")
class AcceptsNothing(Changed):
    @hookimpl
    def load_dataset(self, request):
        try:
            return super().load_dataset(request)
        except DataError as error:
            if "no rows" in str(error):
                return datasets.Dataset.from_list([])
            raise


@MUTANTS.breaks("test_a_kind_of_rows_that_it_does_not_have_is_refused")
class GivesAlwaysTheSame(Changed):
    def kinds(self, entry):
        return ("supervised",)


@MUTANTS.breaks("test_the_line_of_a_row_is_the_line_that_holds_it")
class CountsRowsAsLines(Changed):
    def change(self, dataset, request):
        def number(row):
            return {**row, "origin": {**row["origin"], "line": row["origin"]["row"] + 1}}

        return self.map_rows(dataset, number) if request.entry.path.suffix == ".json" else dataset


@MUTANTS.breaks("test_reading_again_gives_the_same_rows_in_the_same_order")
class RemembersWhatItRead(Changed):
    def __init__(self):
        self.seen = set()

    def change(self, dataset, request):
        again, _ = request.entry.location in self.seen, self.seen.add(request.entry.location)
        return dataset.select(range(len(dataset) - 1, -1, -1)) if again else dataset


@MUTANTS.breaks("test_num_samples_is_followed_or_refused")
class TakesTheFirstSamples(Changed):
    @hookimpl
    def load_dataset(self, request):
        entry = replace(request.entry, num_samples=None)
        dataset = super().load_dataset(replace(request, entry=entry))
        return dataset.select(range(min(request.entry.num_samples or len(dataset), len(dataset))))


@dataclass(frozen=True)
class StreamingOptions(Options):
    streaming: bool = False


class Streams(Changed):
    """A format that streams; a mutant overrides what it changes of one pass."""

    Options = StreamingOptions

    @hookimpl
    def load_dataset(self, request):
        if not request.options.streaming:
            return DATASET.load_dataset(request)
        return datasets.IterableDataset.from_generator(self.one_pass, gen_kwargs={"request": [request]})

    def one_pass(self, request):
        (request,) = request
        file, report = request.entry.path, request.report
        for position, (row, line) in enumerate(tk_demo_dataset.read(file)):
            good = bool(row["question"] and row["answer"])
            if self.is_new(position, report):
                report.read, report.kept = report.read + 1, report.kept + good
                if not good:
                    report.reject(Rejection(str(file), position, line, "no question or no answer"))
            if good:
                messages = (Message("user", row["question"]), Message("assistant", row["answer"]))
                origin = {"file": str(file), "row": position, "line": line}
                yield {"messages": [message_to_dict(m) for m in messages], "tools": "", "origin": origin}

    def is_new(self, position, report):
        return position >= report.read


@MUTANTS.breaks("test_a_stream_gives_the_rows_of_the_whole_data")
class LosesTheLastRowOfAStream(Streams):
    def one_pass(self, request):
        for row, _ in pairwise(super().one_pass(request)):
            yield row


@MUTANTS.breaks("test_a_stream_gives_the_rows_of_the_whole_data")
class CountsEveryPass(Streams):
    def is_new(self, position, report):
        return True


@MUTANTS.breaks("test_a_stream_reads_while_it_is_used")
class ReadsAllOfAStreamFirst(Streams):
    def one_pass(self, request):
        yield from list(super().one_pass(request))


@MUTANTS.breaks("test_a_stream_reads_while_it_is_used")
class AcceptsStreamingAndReadsTheWhole(Streams):
    @hookimpl
    def load_dataset(self, request):
        return DATASET.load_dataset(request)


@MUTANTS.breaks("test_the_kernel_accepts_it")
class Unmarked(tk_demo_dataset.Dataset):
    def load_dataset(self, *arguments):
        return super().load_dataset(*arguments)


MUTANTS.add("heavy_plugins:DATASET", "test_importing_the_plugin_imports_nothing_heavy")


def test_the_right_dataset_passes():
    assert MUTANTS.failing("tk_demo_dataset:DATASET") == set()


def test_the_right_stream_passes():
    assert MUTANTS.failing(Streams()) == set()


def test_every_check_has_a_mutant():
    assert MUTANTS.uncovered() == set()


@pytest.mark.parametrize("mutant", MUTANTS.all, ids=str)
def test_the_mistake_fails_its_check(mutant):
    assert MUTANTS.noticed(mutant)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS.all, ids=str)
def test_the_mistake_fails_no_other_check(mutant):
    assert MUTANTS.failing(mutant.plugin, **mutant.suite) == {mutant.check, *mutant.also}
