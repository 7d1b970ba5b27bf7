"""`formatting: demo`: rows with a `question` and an `answer`."""

import json
from dataclasses import dataclass
from typing import Literal

from tkernel import Message, hookimpl
from tkernel.errors import DataError
from tkernel.types.conversation import message_to_dict
from tkernel.types.dataset import Rejection


@dataclass(frozen=True)
class Options:
    """Options of the format `demo`."""

    on_bad_row: Literal["error", "drop"] = "error"
    """What a row without question or answer leads to."""


def read(file):
    """Each row with its line, for JSON lines and JSON arrays (whose rows have no line)."""
    data = file.read_bytes()
    if data.lstrip().startswith(b"["):
        yield from ((row, None) for row in json.loads(data))
        return
    for number, line in enumerate(data.splitlines(), start=1):
        if line.strip():
            try:
                yield json.loads(line), number
            except ValueError as error:  # not JSON, or not UTF-8
                raise DataError(f"{file}:{number}: not JSON: {error}") from error


def is_text(value):
    """Whether a value is text that says something and that can be stored, as a lone surrogate cannot."""
    return isinstance(value, str) and bool(value.strip()) and value.encode(errors="ignore").decode() == value


def features():
    """The Arrow types of the rows, so that they do not depend on what the first rows hold."""
    from datasets import Features, List, Value

    text = Value("string")
    function = {"name": text, "arguments": text}
    message = {
        "role": text,
        "content": text,
        "tool_calls": List({"type": text, "function": function}),
        "reasoning": text,
        "train": Value("bool"),
        "weight": Value("float64"),
    }
    origin = {"file": text, "row": Value("int64"), "line": Value("int64")}
    return Features({"messages": List(message), "tools": text, "origin": origin})


class Dataset:
    """Question and answer."""

    name, Options = "demo", Options
    examples = (
        {"question": "Who runs the inn?", "answer": "The user does."},
        {"question": "Where is the café?", "answer": "Behind the inn."},
        {"question": "How much is 12 and 12?", "answer": "It is 24."},
    )

    @hookimpl
    def load_dataset(self, request):
        import datasets

        file, report, rows = request.entry.path, request.report, []
        if not file.is_file():
            raise DataError(f"{file} is not there")
        if request.entry.num_samples is not None:
            raise DataError(
                "this format does not draw samples: take out num_samples", origin=request.entry.origin
            )
        for position, (row, line) in enumerate(read(file)):
            report.read += 1
            if not (isinstance(row, dict) and is_text(row.get("question")) and is_text(row.get("answer"))):
                rejection = Rejection(str(file), position, line, "no question or no answer")
                if request.options.on_bad_row == "error":
                    raise DataError(str(rejection), hint="`on_bad_row: drop` leaves such rows out.")
                report.reject(rejection)
                continue
            messages = (Message("user", row["question"]), Message("assistant", row["answer"]))
            origin = {"file": str(file), "row": position, "line": line}
            rows.append({"messages": [message_to_dict(m) for m in messages], "tools": "", "origin": origin})
        if report.read == 0:
            raise DataError(f"{file} has no rows")
        report.kept = len(rows)
        return datasets.Dataset.from_list(rows, features=features())


DATASET = Dataset()
