"""Layers of settings into one: defaults < file < environment < command line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tkernel.config.read import Setting, parse_value, read_file
from tkernel.errors import Problem, UsageError
from tkernel.lock import SUFFIX, read_lock

ENVIRONMENT_PREFIX = "TK_ARG_"
COMMAND_LINE = "command line"

_ASSIGNMENT = re.compile(r"(?:--)?([A-Za-z_][\w.-]*)=(.*)", re.DOTALL)
_OPTION = re.compile(r"--([A-Za-z_][\w.-]*)")


class Settings(Mapping[str, Any]):
    """The keys of a run with the value that won; each knows where it came from.

    `problems` are those found while reading: syntax, duplicate keys, options that cannot be read.
    """

    def __init__(self, layers: Sequence[Sequence[Setting]], problems: Sequence[Problem] = ()) -> None:
        self._history: dict[str, list[Setting]] = {}
        for layer in layers:
            for setting in layer:
                self._history.setdefault(setting.key, []).append(setting)
        self.layers = layers
        self.problems = tuple(problems)

    def __getitem__(self, key: str) -> Any:
        return self._history[key][-1].value

    def __iter__(self) -> Iterator[str]:
        return iter(self._history)

    def __len__(self) -> int:
        return len(self._history)

    def without(self, *keys: str) -> list[list[Setting]]:
        """The layers without some keys."""
        return [[setting for setting in layer if setting.key not in keys] for layer in self.layers]

    def setting(self, key: str) -> Setting:
        """The setting that won."""
        return self._history[key][-1]

    def origin(self, key: str) -> str | None:
        """Where the value was written, `train.yaml:14`; None for a key that nobody set."""
        return self._history[key][-1].origin if key in self._history else None

    def history(self, key: str) -> tuple[Setting, ...]:
        """Every layer's setting of `key`, the one that won last."""
        return tuple(self._history.get(key, ()))


def settle(
    source: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Settings of a file or a mapping, of `TK_ARG_<KEY>` variables and of the command line.

    Args:
        source: a YAML or JSON file, a `*.lock.json` (its settings are taken), a mapping, or nothing.
        overrides: the words of the command line: `--key value`, `--key=value`, `key=value`, and
            `--flag` for true. Of a key given twice the last counts. `-` in a key is read as `_`.
        environ: the environment; `os.environ` if None.
    """
    problems: list[Problem] = []
    base: list[Setting] = []
    if isinstance(source, Mapping):
        base = [Setting(str(key), value, "settings") for key, value in source.items()]
    elif isinstance(source, str | os.PathLike):
        base, problems = _from_file(source)
    elif source is not None:
        raise UsageError(f"a {type(source).__name__} is no configuration: give a file or a mapping of keys")
    for word in overrides:
        if not isinstance(word, str):
            raise UsageError(f"{word!r} is no override: write text, `key=value`")
    words, unreadable = _from_words(overrides)
    environment = _from_environment(os.environ if environ is None else environ)
    return Settings([base, environment, words], [*problems, *unreadable])


def _from_file(path: str | os.PathLike[str]) -> tuple[list[Setting], list[Problem]]:
    if str(path).endswith(SUFFIX):
        lock, problems = read_lock(path)
        return (list(lock.settings) if lock else []), problems
    return read_file(path)


def _from_environment(environ: Mapping[str, str]) -> list[Setting]:
    names = sorted(name for name in environ if name.startswith(ENVIRONMENT_PREFIX))
    return [
        Setting(
            name.removeprefix(ENVIRONMENT_PREFIX).lower(), parse_value(environ[name]), name, environ[name]
        )
        for name in names
    ]


def _from_words(words: Sequence[str]) -> tuple[list[Setting], list[Problem]]:
    settings: list[Setting] = []
    problems: list[Problem] = []
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if assignment := _ASSIGNMENT.fullmatch(word):
            name, text = assignment.groups()
            settings.append(_word(name, text))
        elif option := _OPTION.fullmatch(word):
            if index < len(words) and not _starts_a_setting(words[index]):
                settings.append(_word(option[1], words[index]))
                index += 1
            else:
                settings.append(_word(option[1], "true"))
        else:
            hint = "Write `key=value`, `--key value` or `--key=value`."
            problems.append(Problem(f"{word!r} is no setting", COMMAND_LINE, hint=hint))
    return settings, problems


def _starts_a_setting(word: str) -> bool:
    return word.startswith("--") or _ASSIGNMENT.fullmatch(word) is not None


def _word(name: str, text: str) -> Setting:
    return Setting(name.replace("-", "_"), parse_value(text), COMMAND_LINE, text)
