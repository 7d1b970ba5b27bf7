"""`stages:` in one file: runs of which each goes on from what the ones before it have made.

An entry of the list is a mapping of flat keys over the common ones. It writes to `output_dir/NAME`, NAME
being its `name` or its stage. A stage starts from the result of the last one before it that trained the
policy. What a stage makes for another role (`produces = "reward"`) goes under the key that a later stage's
`models` has for this role (`reward_model`), and the policy passes it by: so `sft, rm, ppo` trains the
reward model and PPO's policy both from the result of sft. A key that an entry sets itself is never overridden.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tkernel.config.bind import keys_of, place
from tkernel.config.convert import convert
from tkernel.config.json_text import LocatedObject
from tkernel.config.read import Setting, settings_of
from tkernel.config.settle import Settings
from tkernel.errors import ConfigError, Problem, TkError, UnusedPlugin, UsageError, WrongRequest
from tkernel.facts import read_facts
from tkernel.hookspecs import KINDS
from tkernel.memory import InMemory, listed
from tkernel.other_models import Coming, OtherModel
from tkernel.pipeline import say, say_finished, train
from tkernel.planning import Draft, bind_draft, draft
from tkernel.session import Session
from tkernel.types.stage import StageResult
from tkernel_plugins.keys.renames import RENAMES
from tkernel_plugins.runs.continuing import adapters_after, earlier_result, holds_run

_NAME = re.compile(r"\w[\w.-]*")


def open_chain(
    settings: Settings,
    plugins: Sequence[Any],
    objects: InMemory,
    needs: Sequence[str],
) -> list[Session]:
    """Plan the stages of a chain, in their order; see `tkernel.planning.open_session`.

    Raises:
        ConfigError: everything that is wrong in any stage. What an earlier stage will only write is not missing.
    """
    if objects.model is not None:
        hint = "Save the model, and name its folder as `model_name_or_path`."
        raise UsageError("a chain of stages begins with a model that can be loaded again", hint=hint)
    plugins = listed("plugins", plugins, "names or plugin objects")
    entries, problems = read_stages(settings)
    errors: list[TkError] = []
    drafts = draft_stages(settings, entries, plugins, objects, needs)
    sessions = []
    for number, one in enumerate(drafts):
        drop_unused(one, entries[number], drafts)
        try:
            session = bind_draft(one, KINDS, owned_elsewhere(number, drafts, entries))
            sessions.append(replace(session, name=entries[number]["name"]))
        except ConfigError as error:
            problems += [located(problem, entries[number]["name"]) for problem in error.problems]
        except WrongRequest as error:
            errors.append(error)
    if len(errors) == 1 and not problems:  # the one thing that is wrong keeps its type
        raise errors[0]
    problems += [error.problem() for error in errors]
    if problems:
        raise ConfigError(sorted(dict.fromkeys(problems), key=place))
    return sessions


def train_chain(sessions: Sequence[Session], callbacks: Sequence[Any]) -> StageResult:
    """Train the stages that are not finished; the result of the last.

    Raises:
        TkError: an output folder cannot be used; nothing is loaded then.
    """
    earlier = earlier_results(sessions)
    for session in sessions:  # what must be imported first comes before any stage
        session.active.begin()
    for session, result in zip(sessions, earlier, strict=True):
        if result is not None:
            last = result
            say_finished(last)
            continue
        say(f"stage {session.name}, to {session.output_dir}")
        last = train(with_results(session), callbacks)
        say(f"saved to {last.output_dir} after {last.steps} steps")
        last = replace(last, bundle=None if session is not sessions[-1] else last.bundle)
    return last


def read_stages(settings: Settings) -> tuple[list[Settings], list[Problem]]:
    """The settings of each entry, with its `name`, and what is wrong with the list.

    Raises:
        ConfigError: it is no list of mappings.
    """
    written = settings.setting("stages")
    values, problem = convert(written, list[dict[str, Any]], {})
    if problem is not None:
        raise ConfigError([*settings.problems, problem])
    file = written.origin.rpartition(":")[0]
    entries, problems, names = [], list(settings.problems), set[str]()
    if settings.get("warm_start"):
        message = "`warm_start` belongs to one stage of a chain"
        origin = settings.origin("warm_start")
        problems.append(Problem(message, origin, "warm_start", "Write it into the entry of that stage."))
    for number, value in enumerate(written.value if isinstance(written.value, list) else values):
        if isinstance(value, LocatedObject) and value.lines:
            found = settings_of(value, file)
        else:
            found = [Setting(str(key), item, f"stages[{number}]") for key, item in value.items()]
        own = Settings([found])
        name = str(own.get("name", own.get("stage", settings.get("stage", "sft"))))
        if not _NAME.fullmatch(name):
            message = f"{name!r} cannot be the name of a stage, which is a folder in output_dir"
            problems.append(Problem(message, own.origin("name"), "name", "Use letters, digits, `-` and `_`."))
        if "output_dir" in own:
            hint = "Take it out: the folder is the common `output_dir` and the stage's `name`."
            message = "a stage of a chain has no output_dir of its own"
            problems.append(Problem(message, own.origin("output_dir"), "output_dir", hint))
        count = 1
        while (unique := name if count == 1 else f"{name}-{count}") in names:
            count += 1
        names.add(unique)
        kept = [item for item in found if item.key not in ("name", "output_dir")]
        entries.append(Settings([[*kept, Setting("name", unique, written.origin)]]))
    return entries, problems


def draft_stages(
    settings: Settings,
    entries: Sequence[Settings],
    plugins: Sequence[Any],
    objects: InMemory,
    needs: Sequence[str],
) -> list[Draft]:
    """Each stage with what those before it will have made."""
    drafts: list[Draft] = []
    needed = list(needs)
    coming: Coming = {}
    made: dict[str, str] = {}  # role -> the folder of the last stage that trained it
    for entry in entries:
        own = [entry.setting(key) for key in entry if key != "name"]
        common = settings.without("stages", "output_dir", "warm_start")
        fed = []
        if settings.get("output_dir") is not None:
            place = str(Path(str(settings["output_dir"]), entry["name"]))
            fed.append(Setting("output_dir", place, str(settings.origin("output_dir"))))
        if "policy" in made and not {"model_name_or_path", "warm_start"}.intersection(entry):
            fed += policy_settings(made["policy"], coming, common, entry)
        layered = Settings([common[0], own, *common[1:], fed])
        one = draft(layered, plugins, objects, needed, coming)
        stage = one.plan.chosen("stage")
        plugin = one.active.object(stage) if stage else None
        keys = {key: made[role] for role, key in getattr(plugin, "models", {}).items() if role in made}
        further = [Setting(key, value, f"stage {Path(value).name}") for key, value in keys.items()]
        further = [setting for setting in further if setting.key not in layered]
        if further:
            layered = Settings([common[0], own, *common[1:], [*fed, *further]])
            one = draft(layered, plugins, objects, needed, coming)
        needed = [key for key in needs if key != "output_dir"]  # that it is missing is told once
        drafts.append(one)
        if folder := one.run.output_dir or "":
            coming = {**coming, folder: result_of(one, folder)}
            made[getattr(plugin, "produces", "policy")] = folder
    return drafts


def policy_settings(
    folder: str, coming: Coming, common: Sequence[Sequence[Setting]], entry: Settings
) -> list[Setting]:
    """The model and the adapters with which a stage goes on from the one that wrote `folder`."""
    result = coming[folder]
    origin = f"stage {Path(folder).name}"
    found = [Setting("model_name_or_path", result.facts.name if result else folder, origin)]
    adapters = list(result.adapters) if result else []
    inherited = any(setting.key == "adapter_name_or_path" for layer in common for setting in layer)
    if "adapter_name_or_path" not in entry and (adapters or inherited):
        found.append(Setting("adapter_name_or_path", adapters, origin))
    return found


def result_of(one: Draft, folder: str) -> OtherModel | None:
    """What a stage will leave in its folder: an adapter on its model, or a whole model of the same kind."""
    if one.facts is None:
        return None
    adapter = one.plan.chosen("adapter")
    if adapter is None or not getattr(one.active.object(adapter), "saves_adapter", False):
        return OtherModel(replace(one.facts, name=folder))
    return OtherModel(one.facts, adapters_after(one.settings, one.run.adapter_name_or_path, folder))


def owned_elsewhere(number: int, drafts: Sequence[Draft], entries: Sequence[Settings]) -> set[str]:
    """Common keys that are no mistake in this stage: another one has them, or an earlier one was blamed."""
    keys = [known_keys(one) for one in drafts]
    common = [
        {key for key in one.settings if key not in entry} for one, entry in zip(drafts, entries, strict=True)
    ]
    others = set().union(*(keys[:number] + keys[number + 1 :]), *common[:number])
    return (common[number] & others) - keys[number]


def known_keys(one: Draft) -> set[str]:
    """Every key that such a run could have, under its names of today and of yesterday."""
    groups = [keys_of(owner.label, owner.distribution, owner.options) for owner in one.owners()]
    keys = set(one.arguments).union(*groups)
    return keys | {old for old, now in RENAMES.items() if now.new in keys}


def drop_unused(one: Draft, entry: Settings, drafts: Sequence[Draft]) -> None:
    """Forget that a common plugin has no use in this stage, if it has one in another."""
    own = {entry.origin(key) for key in entry}
    unused = [{str(e) for e in d.errors if isinstance(e, UnusedPlugin)} for d in drafts]
    everywhere = set.intersection(*unused)
    one.errors = [
        error
        for error in one.errors
        if not isinstance(error, UnusedPlugin) or str(error) in everywhere or error.origin in own
    ]


def located(problem: Problem, name: str) -> Problem:
    """A problem that says which stage it is in, where it has no line."""
    if problem.origin is not None:
        return problem
    return replace(problem, message=f"stage {name}: {problem.message}")


def with_results(session: Session) -> Session:
    """The session of a stage whose earlier stages have ended: their whole models are there now."""

    def read(other: OtherModel) -> OtherModel:
        coming = other.facts.name in session.coming
        return replace(other, facts=read_facts(other.facts.name)) if coming else other

    facts = read(OtherModel(session.facts)).facts
    others = {role: read(other) for role, other in session.others.items()}
    return replace(session, facts=facts, others=others)


def earlier_results(sessions: Sequence[Session]) -> list[StageResult | None]:
    """What is finished already of a chain; None from the first stage on that has something to do.

    Raises:
        TkError: see `earlier_result`; or a stage holds what came from another result of
            a stage before it, which is to be trained now.
    """
    found: list[StageResult | None] = []
    for session in sessions:
        if None not in found:
            found.append(earlier_result(with_results(session), in_chain=True))
            continue
        found.append(None)
        folder = session.output_dir
        overwrite = session.options.overwrite_output_dir and not session.resuming
        if folder is not None and holds_run(folder) and not overwrite:
            message = f"{folder} holds a run already, and an earlier stage of the chain is not finished"
            raise TkError(message, hint="Remove that folder, or set `overwrite_output_dir: true`.")
    return found
