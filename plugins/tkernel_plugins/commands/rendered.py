"""Conversations from JSON, rendered by any template on copies of one tokenizer."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from tkernel.activate import Loader
from tkernel.config.suggest import did_you_mean, near_file
from tkernel.doors import is_door, open_door
from tkernel.errors import DataError, NoProvider, TkError
from tkernel.index import read_index
from tkernel.types.conversation import Conversation
from tkernel.types.rendering import Renderer
from tkernel.types.requests import TemplateRequest
from tkernel_plugins.data.formats import BadRow, Row, kind_of
from tkernel_plugins.data.tagged import OPENAI_TAGS, sample_of
from tkernel_plugins.data.today import today_is
from tkernel_plugins.data.truncation import truncate

_KEPT = 16  # renderers, and tokenizers, the most recently used; a copy of one takes long
_NAMED = re.compile(rb'"template"\s*:\s*"[^"]*"')
_COLUMNS = {"messages": "messages", "system": "system", "tools": "tools"}
_ROLES = {"observation": "tool", "function": "tool_call"}

TEMPLATE_OPTIONS: Mapping[str, tuple[type, ...]] = {
    "enable_thinking": (bool, type(None)),
    "preserve_thinking": (bool,),
    "default_system": (str, type(None)),
    "tool_format": (str, type(None)),
}
"""Keys of a line that are options of its template -> the types of their values."""

ENCODE_OPTIONS = ("mask_history", "train_on_prompt")
"""Keys of a line that are arguments of `Renderer.encode`."""


class Renderings:
    """Renders conversations.

    Args:
        tokenizer: a folder or a name on the hub.
        template: what the command line names. It may be a file, `./mine.jinja` or `./mine.py`; a line may
            name installed templates and this one.

    Raises:
        TkError: there is no tokenizer.
    """

    def __init__(self, tokenizer: str, template: str | None = None) -> None:
        from transformers import AutoTokenizer

        try:
            self._pristine = AutoTokenizer.from_pretrained(tokenizer)
        except (OSError, ValueError) as error:
            raise TkError(f"no tokenizer can be loaded from {tokenizer}: {error}") from error
        self._loader = Loader()
        self._index = read_index()
        if template is not None and is_door(template, self._index):
            self._index = self._index.adding(open_door(template))
        self._renderer = functools.lru_cache(maxsize=_KEPT)(self._make)
        self._tokenizer = functools.lru_cache(maxsize=_KEPT)(lambda _: copy.deepcopy(self._pristine))

    def of_file(self, file: Path, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """The rendering of the conversation in a JSON file; `defaults` as in `of_line`.

        Raises:
            TkError: the file cannot be read, or the conversation not rendered.
        """
        return self.of_line(_read(file).decode("utf-8-sig", errors="replace"), defaults)

    def of_lines(self, file: Path, defaults: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """One rendering for each line of a file, `{"error": ...}` for those that have none.

        Raises:
            TkError: the file cannot be read.
        """
        lines = _read(file).removeprefix(b"\xef\xbb\xbf").splitlines()
        # Template by template: the next one needs a tokenizer of its own.
        groups: dict[bytes, list[int]] = {}
        for number, line in enumerate(lines):
            named = _NAMED.search(line)
            groups.setdefault(named[0] if named else b"", []).append(number)
        made: dict[int, dict[str, Any]] = {}
        waiting = 0
        for number in itertools.chain.from_iterable(groups.values()):
            made[number] = self._of_line_or_error(lines[number], defaults)
            while waiting in made:
                yield made.pop(waiting)
                waiting += 1

    def _of_line_or_error(self, line: bytes, defaults: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self.of_line(line.decode("utf-8"), defaults)
        except TkError as error:
            return {"error": str(error)}
        except UnicodeDecodeError as error:
            return {"error": f"the line is not UTF-8: {error}"}
        except Exception as error:  # a template of somebody else's may raise anything
            return {"error": f"{type(error).__name__}: {error}"}

    def of_line(self, line: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """The rendering of a conversation in JSON; what the line does not say is said by `defaults`.

        Returns:
            `template`, `turns` (pairs of prompt and reply as text), `ids`, `labels`, and what the template
            declares: `stop_words`, `default_system`.

        Raises:
            TkError: it is no conversation, an option is wrong, or the template cannot render it.
        """
        record = {**defaults, **_object(line)}
        name = _option(record, "template", (str,))
        if name is None:
            raise DataError("the conversation names no template", hint="Say which one: --template NAME")
        conversation = conversation_of(record)
        chosen = {key: record[key] for key in TEMPLATE_OPTIONS if key in record}
        for key, types in TEMPLATE_OPTIONS.items():
            _option(record, key, types)
        with today_is(_day(record)):
            renderer, tokenizer, plugin = self._renderer(name, tuple(chosen.items()))
            arguments = {key: bool(_option(record, key, (bool,))) for key in ENCODE_OPTIONS}
            (encoded,) = renderer.encode([conversation], **arguments)
        # One token ends a conversation whose replies have no terminator of their own; it is no reply's text.
        ends = getattr(renderer, "efficient_eos", False)
        if (cutoff_len := _option(record, "cutoff_len", (int,))) is not None:
            (encoded,) = truncate(encoded, cutoff_len, last_first=arguments["mask_history"], ends=ends)
        said = encoded.input_ids[:-1] if ends else encoded.input_ids
        default_system = chosen.get("default_system")
        return {
            "template": name,
            "turns": _turns(tokenizer, said, encoded.spans),
            "ids": encoded.input_ids,
            "labels": encoded.labels,
            "stop_words": list(getattr(plugin, "stop_words", renderer.stop_words)),
            "default_system": getattr(plugin, "default_system", "")
            if default_system is None
            else default_system,
        }

    def _make(self, name: str, options: tuple[tuple[str, Any], ...]) -> tuple[Renderer, Any, Any]:
        """A renderer, the tokenizer of its own, and the plugin that made it."""
        plugin = self._plugin(name)
        declared = getattr(plugin, "Options", None)
        known = {field.name for field in dataclasses.fields(declared)} if declared else set()
        for key, value in options:
            # Null and false ask a template for nothing that it could lack.
            if value and key not in known:
                raise DataError(f"template {name!r} has no option `{key}`")
        bound = declared(**{key: value for key, value in options if key in known}) if declared else None
        # A template that declares its stop words adds those to the tokenizer, whatever its options.
        tokenizer = self._tokenizer(name if hasattr(plugin, "stop_words") else (name, options))
        request = TemplateRequest(name, tokenizer, options=bound)
        return plugin.render_template(request), tokenizer, plugin

    def _plugin(self, name: str) -> Any:
        opened = [e for e in self._index.entries if e.kind == "template" and e.door == name]
        found = opened or self._index.find("template", name)
        if not found:
            if is_door(name, self._index):
                raise NoProvider(
                    f"a line names the file {name!r}, and lines name installed templates",
                    hint=f"Give it on the command line: --template {name}",
                )
            names = self._index.names("template")
            hint = did_you_mean(name, names) or "What is installed: tk plugins list template"
            raise NoProvider(f"no installed template is named {name!r}", hint=hint)
        return self._loader(found[0])


def conversation_of(record: Mapping[str, Any]) -> Conversation:
    """The conversation in `messages`, `system` and `tools`, in OpenAI's roles or LLaMA-Factory's.

    Raises:
        DataError: it is none; the message says which message is wrong, counted from 1.
    """
    messages = record.get("messages")
    if isinstance(messages, list):
        messages = [{**m, "role": _ROLES.get(m["role"], m["role"])} if _has_role(m) else m for m in messages]
    try:
        row = Row({**record, "messages": messages}, _COLUMNS, OPENAI_TAGS)
        sample = sample_of(row, results_may_follow=True, empty_replies=True)
    except BadRow as error:
        raise DataError(str(error)) from error
    return sample.prompt.replace(messages=(*sample.prompt.messages, *sample.replies))


def shown(rendered: Mapping[str, Any]) -> str:
    """A rendering for reading: each turn's prompt and reply, then what the template declares."""
    lines = []
    for number, (prompt, reply) in enumerate(rendered["turns"], start=1):
        lines += [f"-- prompt {number}", prompt, f"-- reply {number}", reply]
    learned = sum(label != -100 for label in rendered["labels"])
    lines += ["--", f"{len(rendered['ids'])} tokens, {learned} learned; template {rendered['template']}"]
    return "\n".join(lines)


def _turns(tokenizer: Any, ids: list[int], spans: list[tuple[int, int, int, str]]) -> list[list[str]]:
    """Prompt and reply of each turn as text."""
    turns: dict[int, list[str]] = {}
    for start, stop, turn, _ in spans:
        text = tokenizer.decode(
            ids[start:stop], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        turns.setdefault(turn, []).append(text)
    return list(turns.values())


def _object(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
        # Half a surrogate pair is valid JSON and no text.
        line.encode("utf-8") if "\\u" not in line else json.dumps(record, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"the conversation has a character that is half of one: {error.object[error.start]!r}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"this is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise DataError(f"a conversation is an object with `messages`, not {kind_of(record)}")
    return record


def _option(record: Mapping[str, Any], key: str, types: tuple[type, ...]) -> Any:
    """The value of an option, None if it is not there."""
    if key not in record:
        return None
    value = record[key]
    if key == "cutoff_len" and type(value) is int and value < 1:
        raise DataError(f"`cutoff_len` must be at least 1, not {value}")
    if type(value) not in types:
        names = " or ".join("null" if t is type(None) else t.__name__ for t in types)
        raise DataError(f"`{key}` must be {names}, not {kind_of(value)}")
    return value


def _day(record: Mapping[str, Any]) -> date | None:
    text = _option(record, "date", (str, type(None)))
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError as error:
        raise DataError(f"`date` is YYYY-MM-DD, not {text!r}") from error


def _has_role(message: Any) -> bool:
    return isinstance(message, dict) and isinstance(message.get("role"), str)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise TkError(f"cannot read {file}: {error.strerror}", hint=near_file(file)) from error
