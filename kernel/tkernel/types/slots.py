"""What extensions may contribute to a hook call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tkernel.errors import SlotError


class Slots:
    """Named places of one hook call that extensions fill and the provider reads.

    A slot is written once: a second writer is an error that names both. A slot listed in
    `accumulating` takes any number of values. A slot that was written and that the provider never
    reads is an error too, raised by the kernel after the call: nothing is ignored.

    Example, in an extension::

        @hookimpl(wrapper=True)
        def train_stage(self, request):
            request.slots.put("optimizer", make_optimizer, by="my-optimizer")
            return (yield)

    and in a stage: `factory = request.slots.take("optimizer")`.
    """

    def __init__(self, hook: str, once: Iterable[str] = (), accumulating: Iterable[str] = ()) -> None:
        self.hook = hook
        self.once = tuple(once)
        self.accumulating = tuple(accumulating)
        self._values: dict[str, list[tuple[str, Any]]] = {}
        self._read: set[str] = set()
        self._options: dict[str, Any] = {}

    def put(self, name: str, value: Any, *, by: str) -> None:
        """Fill slot `name`; `by` is the plugin that does it and is named in errors.

        Raises:
            SlotError: no such slot, or somebody wrote it already.
        """
        self._check(name)
        written = self._values.setdefault(name, [])
        if written and name not in self.accumulating:
            raise SlotError(
                f"slot {name!r} of {self.hook} was written by {written[0][0]!r} and again by {by!r}; "
                "it takes one value",
                hint=f"Leave one of the two out: {written[0][0]} or {by}.",
            )
        written.append((by, value))

    def take(self, name: str, default: Any = None) -> Any:
        """The value of slot `name` (a list for an accumulating slot), and mark it as read."""
        self._check(name)
        self._read.add(name)
        values = [value for _, value in self._values.get(name, [])]
        if name in self.accumulating:
            return values
        return values[0] if values else default

    def unread(self) -> dict[str, str]:
        """Slots that were written and never read: slot name -> its writers."""
        return {
            name: ", ".join(by for by, _ in written)
            for name, written in self._values.items()
            if written and name not in self._read
        }

    def bind(self, extension: str, options: Any) -> None:
        """Called by the kernel before the hook: the bound `Options` of an extension."""
        self._options[extension] = options

    def options(self, extension: str) -> Any:
        """The bound `Options` of the extension with this entry-point name; None if it declares none."""
        return self._options.get(extension)

    def _check(self, name: str) -> None:
        known = (*self.once, *self.accumulating)
        if name not in known:
            listed = ", ".join(known) or "none"
            raise SlotError(f"{self.hook} has no slot {name!r}; its slots are: {listed}")
