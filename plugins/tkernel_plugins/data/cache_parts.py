"""Digests of the parts of a run that encoded samples depend on, beside their rows and options."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import tkernel
import tkernel_plugins
from tkernel.errors import TkError
from tkernel.lock import content_hash, installed_versions
from tkernel.types.conversation import Conversation, Message, ToolCall
from tkernel.types.rendering import Renderer
from tkernel_plugins.data.canonical import MEDIA
from tkernel_plugins.data.frames import frames_of

LIBRARIES = ("datasets", "jinja2", "numpy", "pyarrow", "tokenizers", "transformers")
"""Their versions are part of every key."""

_ENDS = 1 << 16

_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_ASKED = Message("user", "What is the weather in Oslo?")
_PROBES = (
    Conversation((_ASKED, Message("assistant", "It rains."))),
    Conversation((Message("system", "Be brief."), _ASKED, Message("assistant", "It rains."))),
    Conversation(
        (_ASKED, Message("assistant", "Rain.", reasoning="Autumn."), _ASKED, Message("assistant", "Sun."))
    ),
    Conversation(
        (
            _ASKED,
            Message("assistant", "", tool_calls=(ToolCall("weather", '{"city": "Oslo"}'),)),
            Message("tool", "rain"),
            Message("assistant", "It rains."),
        ),
        tools=(_TOOL,),
    ),
)
"""Conversations whose rendering stands for a template: its texts, and the date if it prints one."""


@cache
def code() -> Mapping[str, str]:
    """The source of the kernel and of this distribution, and the versions of the libraries below them."""
    packages = {}
    for package in (tkernel, tkernel_plugins):
        folder = Path(str(package.__file__)).parent
        packages[f"code of {package.__name__}"] = content_hash(*sorted(folder.rglob("*.py")))
    versions = installed_versions(LIBRARIES)
    versions["python"] = ".".join(versions["python"].split(".")[:2])
    return packages | {f"version of {name}": version for name, version in versions.items()}


def digest_template(renderer: Renderer) -> str:
    """How a renderer writes a few conversations, what it stops at, and how it writes itself down."""
    parts: list[object] = [renderer.name, renderer.stop_ids, renderer.stop_words, renderer.added_tokens]
    for conversation in _PROBES:
        try:
            parts.append(renderer.turns(conversation))
        except TkError as error:
            parts.append(error.message)
    try:
        parts.append(renderer.jinja())
    except TkError as error:
        parts.append(error.message)
    return _digest(*map(repr, parts))


def digest_tokenizer(tokenizer: Any) -> str | None:
    """All that decides about ids: the tokenizer's own file, special tokens, chat template; None if it has none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "to_str"):
        return None
    # What the last call left on it does not count, as in encoding.
    backend.no_truncation()
    backend.no_padding()
    names = ("add_bos_token", "add_eos_token", "split_special_tokens", "chat_template", "special_tokens_map")
    settings = [f"{name}={getattr(tokenizer, name, None)!r}" for name in names]
    return _digest(type(tokenizer).__qualname__, backend.to_str(), *settings)


def digest_processor(processor: Any) -> str | None:
    """The settings of a processor of media; None if it cannot write them."""
    if processor is None:
        return "none"
    write = getattr(processor, "to_json_string", None)
    return None if write is None else _digest(write())


def digest_media(tables: Iterable[Any]) -> str:
    """The media files that rows refer to: how many tokens one becomes depends on what is in it.

    Of each file the size, the time of its last change and the first and last 64 KiB count.
    """
    seen: dict[str, None] = {}
    for table in tables:
        for name in MEDIA:
            for row in table[name].to_pylist() if name in table.column_names else ():
                seen.update(dict.fromkeys(path for item in row or () for path in _paths_of(item)))
    total = hashlib.sha256()
    for path in seen:
        total.update(f"{path}\0{_ends(path)}\n".encode())
    return f"sha256:{total.hexdigest()}"


def _paths_of(reference: Any) -> Sequence[str]:
    path = reference.get("path") if isinstance(reference, dict) else reference
    return frames_of(path) or ([path] if path else [])


def _ends(path: str) -> str:
    try:
        with open(path, "rb") as file:
            facts = os.fstat(file.fileno())
            start = file.read(_ENDS)
            file.seek(max(0, facts.st_size - _ENDS))
            ends = hashlib.sha256(start + file.read()).hexdigest()
    except (OSError, ValueError):  # a URL, or a file that is not there
        return "no file"
    return f"{facts.st_size} {facts.st_mtime_ns} {ends}"


def _digest(*parts: str) -> str:
    from xxhash import xxh3_128

    total = xxh3_128()
    for part in parts:
        total.update(f"{len(part)}:".encode())
        total.update(part.encode("utf-8", "surrogatepass"))
    return f"xxh3:{total.hexdigest()}"
