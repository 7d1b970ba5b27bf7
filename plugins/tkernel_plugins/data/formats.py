"""What a dataset format is: which columns it reads and how it makes a sample of a row.

A format plugin owns one `Format`; `tkernel_plugins.data.rows.load_rows` does the rest, the same way
for all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tkernel.config.suggest import did_you_mean
from tkernel.errors import DataError, Problem
from tkernel.types.conversation import Conversation, Message
from tkernel.types.dataset import DatasetEntry
from tkernel_plugins.data.file_split import wrong_split

COLUMNS = (
    *("prompt", "query", "response", "history", "messages", "system", "tools"),
    *("images", "videos", "audios", "chosen", "rejected", "kto_tag"),
)
"""The names that `columns` of `dataset_info.json` may map to columns of a file."""

EXTRA_COLUMNS: Mapping[str, str] = {
    name: name
    for name in (
        *("system", "tools", "images", "videos", "audios", "chosen", "rejected", "kto_tag"),
        "chat_template_kwargs",
    )
}
"""What every format reads beside its own columns in a file that was named by its path."""

TAGS = (
    *("role_tag", "content_tag", "user_tag", "assistant_tag"),
    *("observation_tag", "function_tag", "system_tag"),
)
"""The names that `tags` of `dataset_info.json` may set."""


class BadRow(Exception):
    """A row that cannot be used. `reason` is the same for all rows of its kind, `detail` is this row's."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class MissingColumn(BadRow):
    """A row without a column that its format must have."""

    def __init__(self, column: str) -> None:
        super().__init__(f"no column `{column}`")
        self.column = column


@dataclass(frozen=True, slots=True)
class Sample:
    """A row as its format understands it.

    `prompt` is all that comes before the reply, `replies` holds the reply, or the chosen and the
    rejected one, or nothing. `label` says whether the reply was liked (feedback).
    """

    prompt: Conversation
    replies: tuple[Message, ...] = ()
    label: bool | None = None
    text: str | None = None


@dataclass(frozen=True)
class Format:
    """A format: what it reads where nothing is declared, and the conversion of one row.

    `declared` are LLaMA-Factory's columns for an entry of `dataset_info.json` that declares none;
    `detected` are those for a file that was named by its path: there every column with a name that
    the format knows is read. `needs` says for each kind of rows which columns it takes, in one or
    several ways; `ranked` formats have rows of preference only where `ranking: true` is declared.
    """

    name: str
    declared: Mapping[str, str]
    detected: Mapping[str, str]
    tags: Mapping[str, str]
    convert: Callable[[Row], Sample]
    needs: Mapping[str, Sequence[Sequence[str]]]
    names: Sequence[str] = COLUMNS
    """What `columns` of `dataset_info.json` may name."""
    ranked: bool = True

    def columns_of(self, entry: DatasetEntry) -> Mapping[str, str]:
        """Name -> column. Once `columns` is declared, what it does not name is not read."""
        if problems := self.unknown_names(entry):
            problem = problems[0]
            raise DataError(problem.message, hint=problem.hint, origin=problem.origin)
        if entry.columns is not None:
            return entry.columns
        if entry.formatting is not None:
            return self.declared
        if "image" in entry.seen and "images" not in entry.seen:
            return {**self.detected, "images": "image"}
        return self.detected

    def tags_of(self, entry: DatasetEntry) -> Mapping[str, str]:
        """Name -> tag. Once `tags` is declared, a role that it does not name does not exist."""
        return self.tags if entry.tags is None else entry.tags

    def kinds(self, entry: DatasetEntry) -> tuple[str, ...]:
        """The kinds of rows that the entry can yield, the first the most telling; () before that is known."""
        columns = self.declared if entry.columns is None else entry.columns
        if entry.formatting is None and entry.columns is None:
            columns = {name: column for name, column in self.detected.items() if column in entry.seen}
        elif entry.columns is None and not self.ranked:
            columns = {}
        if not columns:
            return ()
        found = [kind for kind, ways in self.needs.items() if any(columns.keys() >= {*way} for way in ways)]
        if entry.ranking:
            found = [kind for kind in found if kind in ("preference", "prompt")]
        elif self.ranked and entry.formatting is not None:
            found = [kind for kind in found if kind != "preference"]
        if "feedback" in found:
            found = [kind for kind in found if kind != "supervised"]
        return tuple(found) or (entry.rows,)

    def unknown_names(self, entry: DatasetEntry) -> list[Problem]:
        """What `columns` and `tags` of the entry declare that the format does not know, and a wrong split."""
        problems = []
        for what, given, known in (("columns", entry.columns, self.names), ("tags", entry.tags, TAGS)):
            for name in (name for name in given or () if name not in known):
                problems.append(
                    Problem(
                        f"unknown key {name!r} in the {what} of dataset {entry.name!r}",
                        entry.places.get(f"{what}.{name}", entry.origin),
                        name,
                        did_you_mean(name, known) or f"Known are: {', '.join(known)}",
                    )
                )
        if entry.tags and not self.tags:
            message = f"dataset {entry.name!r} has tags, and the format {self.name} has no roles to tag"
            problems.append(Problem(message, entry.origin, "tags", 'Add "formatting": "sharegpt".'))
        if wrong := wrong_split(entry):
            problems.append(Problem(wrong, entry.origin, "split"))
        return problems

    def sample(self, row: Row) -> Sample:
        """The sample of one row; raises `BadRow`."""
        given = row.get("chat_template_kwargs")
        if any(value is not None for value in given.values()) if isinstance(given, dict) else given:
            raise BadRow(
                "`chat_template_kwargs` cannot differ from row to row",
                "set enable_thinking and its like for the run, and take the column out",
            )
        return self.convert(row)


@dataclass(frozen=True, slots=True)
class Row:
    """A raw row seen through the columns and tags of its dataset. `kind` is what the stage asks for."""

    value: Mapping[str, Any]
    columns: Mapping[str, str]
    tags: Mapping[str, str]
    kind: str = "supervised"

    def has(self, name: str) -> bool:
        """Whether `name` is a column of the dataset and this row has a value there."""
        return name in self.columns and self.value.get(self.columns[name]) is not None

    def get(self, name: str) -> Any:
        """The value, or None."""
        return self.value.get(self.columns[name]) if name in self.columns else None

    def need(self, name: str) -> Any:
        """The value, which must be there.

        Raises:
            MissingColumn: the row has no such key. BadRow: nothing is declared for `name`, or null.
        """
        if name not in self.columns:
            raise BadRow(f"the dataset declares no column for `{name}`")
        column = self.columns[name]
        if column not in self.value:
            raise MissingColumn(column)
        if self.value[column] is None:
            raise BadRow(f"`{column}` is null")
        return self.value[column]

    def text(self, name: str) -> str:
        """A text, "" where the row has none."""
        return self.as_text(name, self.get(name)) if self.has(name) else ""

    def as_text(self, name: str, value: Any) -> str:
        """`value` of column `name`, which must be text."""
        if not isinstance(value, str):
            raise BadRow(f"`{self.columns[name]}` must be text", f"it is {kind_of(value)}")
        return value

    def reply(self, name: str) -> str:
        """A text that must be there and not be blank."""
        text = self.as_text(name, self.need(name))
        if not text.strip():
            raise BadRow(f"no reply: `{self.columns[name]}` is empty")
        return text

    def items(self, name: str, value: Any) -> list[Any]:
        """A list; in files whose cells are text (CSV) the list is JSON text."""
        if isinstance(value, str):
            value = parse_json(value, f"`{self.columns[name]}`") if value.strip() else []
        if not isinstance(value, list):
            raise BadRow(f"`{self.columns[name]}` must be a list", f"it is {kind_of(value)}")
        return value

    def liked(self) -> bool:
        """The label of feedback: true or false, also as text and as 1 or 0."""
        value = self.need("kto_tag")
        if value in (0, 1, "0", "1"):
            return bool(int(value))
        if isinstance(value, str) and value.strip().lower() in ("true", "false"):
            return value.strip().lower() == "true"
        if not isinstance(value, bool):
            raise BadRow(f"`{self.columns['kto_tag']}` must be true or false", f"it is {kind_of(value)}")
        return value

    def tools(self) -> str:
        """The tools as JSON text of a list of objects; "" for none.

        The text `"[]"` stays: LLaMA-Factory's templates open a tools block for it.
        """
        value = self.get("tools")
        if not value:
            return ""
        name = f"`{self.columns['tools']}`"
        tools = parse_json(value, name) if isinstance(value, str) else value
        tools = [tools] if isinstance(tools, dict) else tools
        if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
            wrong = (
                tools if not isinstance(tools, list) else next(t for t in tools if not isinstance(t, dict))
            )
            raise BadRow(f"{name} must be a list of tools, which are objects", f"there is {kind_of(wrong)}")
        return value if isinstance(value, str) else json_text(tools, name)


def converted(messages: list[dict[str, str]], system: str = "", tools: str = "") -> Conversation:
    """Messages in LLaMA-Factory's roles as a conversation; raises `BadRow` for calls that are no JSON."""
    from tkernel_plugins.data.roles import from_llamafactory

    try:
        conversation = from_llamafactory(messages, system, tools)
    except DataError as error:
        raise BadRow("a function call that is not valid JSON", _short(error.message)) from None
    except (RecursionError, ValueError) as error:
        raise BadRow("a function call that is not valid JSON", _short(str(error))) from None
    calls = (call for message in conversation.messages for call in message.tool_calls)
    if not all(isinstance(call.name, str) for call in calls):
        raise BadRow("a function call whose name is not text")
    return conversation


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."


def parse_json(text: str, what: str) -> Any:
    """JSON text of a row; `what` names it in the reason if it is none."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadRow(f"{what} is not valid JSON", f"{error.msg} at character {error.pos + 1}") from None
    except (RecursionError, ValueError) as error:
        raise BadRow(f"{what} is not valid JSON", str(error)) from None


def json_text(value: Any, what: str) -> str:
    """`value` as JSON text; `what` names it in the reason if JSON has no such value (bytes, a date)."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError as error:
        raise BadRow(f"{what} holds what JSON cannot", str(error)) from None


def frames_given(frames: Sequence[Any], where: str) -> None:
    """Raise `BadRow` for a list that is no video of frames; `where` names what holds it."""
    if not frames:
        raise BadRow("a video without frames", where)
    for frame in frames:
        if not isinstance(frame, str):
            raise BadRow("the frames of a video must be paths or URLs", f"{where} holds {kind_of(frame)}")


def kind_of(value: Any) -> str:
    """What a value is, in JSON's words."""
    names = {bool: "a boolean", int: "a number", float: "a number", str: "text", type(None): "null"}
    names |= {list: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")
