"""Every error that `tk` raises on purpose: what went wrong, where, and the next command.

Two different failures have two types. `exit_code` is what the command line returns:
1 a run failed, 2 the request was wrong (configuration, unknown names), 3 a plugin is broken,
4 data is bad.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class TkError(Exception):
    """Base of all errors with a message meant for the user.

    Args:
        message: what happened and where, in full sentences.
        hint: the next command or change that helps; printed on a line of its own.
        origin: where the setting behind it was written, `train.yaml:3`; printed before the message.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None, origin: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.origin = origin

    def __str__(self) -> str:
        where = f"{self.origin}: " if self.origin else ""
        return f"{where}{self.message}\n  {self.hint}" if self.hint else f"{where}{self.message}"

    def problem(self, origin: str | None = None, key: str | None = None) -> Problem:
        """This error as one of several problems."""
        return Problem(self.message, origin or self.origin, key, self.hint)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a configuration; `origin` is `file:line`, an option or a variable."""

    message: str
    origin: str | None = None
    key: str | None = None
    hint: str | None = None

    def __str__(self) -> str:
        where = f"{self.origin}: " if self.origin else ""
        hint = "".join(f"\n    {line.strip()}" for line in (self.hint or "").splitlines())
        return f"{where}{self.message}{hint}"


class WrongRequest(TkError):
    """Base of what is wrong before anything runs: the configuration, a name, the command line."""

    exit_code = 2


class ConfigError(WrongRequest):
    """All that is wrong with a configuration, at once (`problems`)."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = "1 problem" if count == 1 else f"{count} problems"
        super().__init__(f"{head} in the configuration\n" + "\n".join(f"  {p}" for p in self.problems))


class UsageError(WrongRequest):
    """A command line, or what Python code gave, that cannot be understood."""


class ModelNotFound(WrongRequest):
    """There is no model or adapter of this name, or it cannot be reached."""


class LockMismatch(WrongRequest):
    """A lock is replayed and something is not what it was; the message is the diff."""


class ProcessesDisagree(WrongRequest):
    """The processes of a distributed run are about to run different things; the message is the diff."""


class NoProvider(WrongRequest):
    """No installed plugin answers a hook as asked; the message lists near misses."""


class AmbiguousProvider(WrongRequest):
    """Two distributions register the same name; the message names both and the line to add."""


class UnusedPlugin(WrongRequest):
    """A plugin was asked for with `--plugin` and nothing in the run can use it."""


class PluginError(TkError):
    """Base of what can be wrong with a plugin that was asked for."""

    exit_code = 3


class BrokenPlugin(PluginError):
    """Its module fails on import, or what the entry point names is not there."""


class MissingRequirement(PluginError):
    """A distribution that it requires is not installed; the hint is the pip command."""


class IncompatibleApi(PluginError):
    """Its distribution requires another version of `tkernel`."""


class InvalidPlugin(PluginError):
    """The object breaks the rules of plugins: no hook of its kind, an unknown hook or argument."""


class ImportedTooLate(PluginError):
    """It must be imported before a module that is already loaded (`import_first`)."""


class ProviderMisbehaved(PluginError):
    """A provider returned `None` or a value of the wrong type."""


class ExtensionMisbehaved(PluginError):
    """An extension swallowed an exception, or changed the type of a result."""


class SlotError(PluginError):
    """A slot was written twice, does not exist, or was never read."""


class DataError(TkError):
    """Bad input data, named by file and line."""

    exit_code = 4
