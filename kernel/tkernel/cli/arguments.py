"""What stands on the command line beside a command's own options: a file and overrides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        help="Prefer a plugin (NAME), block one (no:NAME), or load one from ./file.py or pkg.mod:OBJ.",
    ),
]

FILE_SUFFIXES = (".yaml", ".yml", ".json")


def split_file(file: str | None, rest: Sequence[str]) -> tuple[str | None, list[str]]:
    """Tell the configuration file from the overrides, in whatever order they were written.

    Args:
        file: the first word that is no option of the command, or None.
        rest: all other words, in order.

    Returns:
        The file, or None if every word is an override; and the overrides in order. Overrides are
        `key=value`, `--key=value`, `--key value` and `--flag`.
    """
    words = [*([file] if file is not None else []), *rest]
    after_option = False
    for position, word in enumerate(words):
        is_option = word.startswith("--")
        names_file = not is_option and "=" not in word
        if names_file and (not after_option or word.endswith(FILE_SUFFIXES)):
            return word, words[:position] + words[position + 1 :]
        after_option = is_option and "=" not in word
    return None, words
