"""The checks of plugins themselves: what only they can tell of a run, before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from tkernel.activate import Active
from tkernel.config.bind import Bound
from tkernel.errors import BrokenPlugin, Problem, TkError
from tkernel.types.check import CheckRequest
from tkernel.types.facts import ModelFacts


def check(
    active: Active,
    bound: Bound,
    facts: ModelFacts | None,
    datasets: tuple[tuple[str, ...], tuple[str, ...]],
    calls: Collection[str],
    coming: Mapping[str, bool] | None = None,
) -> Iterator[Problem]:
    """What the plugins of the kinds `calls`, and the extensions, find wrong; each object is asked once.

    `datasets` are the names to train on and to evaluate on. A plugin whose own options could not be made is not asked.

    Raises:
        BrokenPlugin: a `check` fails, or yields something else than problems.
    """
    asked: set[int] = set()
    for choice in (*active.plan.choices, *active.plan.extensions):
        plugin, options = active.object(choice), bound.options(choice.label)
        method = getattr(plugin, "check", None)
        unbound = options is None and active.options_class(choice) is not None
        if method is None or unbound or id(plugin) in asked or choice.kind not in (*calls, "extension"):
            continue
        asked.add(id(plugin))
        request = CheckRequest(
            options, bound.run, bound.arguments, bound.values, facts, *datasets, calls, coming or {}
        )
        try:
            found = list(method(request))
        except TkError as error:
            found = [error.problem()]
        except Exception as error:
            message = f"the check of {choice.label} fails: {type(error).__name__}: {error}"
            raise BrokenPlugin(message, hint=f"Report it to {choice.distribution}.") from error
        for problem in found:
            if not isinstance(problem, Problem):
                raise BrokenPlugin(f"the check of {choice.label} gave {problem!r}, which is no Problem.")
            yield problem
