"""Who answers which hook: a pure function of settings, facts and what is installed.

For each hook exactly one provider is chosen, by the first rule that gives one: *pinned* (a setting names
it), *preferred* (`--plugin X`, `plugins: [X]`), *matched* (its name is the fact), *default*. A variant
(`lora.unsloth`) answers `lora` when unsloth is preferred, and never otherwise. Two equals are an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tkernel.config.settle import Settings
from tkernel.config.suggest import did_you_mean
from tkernel.errors import AmbiguousProvider, BrokenPlugin, NoProvider, TkError, UnusedPlugin
from tkernel.hookspecs import KINDS, PROJECT
from tkernel.index import Entry, Index
from tkernel.pins import (
    Pin,
    Pins,
    Wanted,
    blocked_by,
    is_of,
    preference,
    resolve,
    same_distribution,
)
from tkernel.types.dataset import DatasetEntry
from tkernel.types.facts import ModelFacts
from tkernel.types.plan import Choice, How, Plan

KEYS = {
    "stage": "stage",
    "adapter": "finetuning_type",
    "template": "template",
    "engine": "infer_backend",
    "dataset": "formatting",
}
"""Kind -> the configuration key that names its plugin."""

DEFAULTS = {
    "model": "huggingface",
    "adapter": "lora",
    "template": "auto",
    "stage": "sft",
    "engine": "huggingface",
}

MEDIA_COLUMNS = frozenset({"images", "videos", "audios"})
"""Columns that need a media plugin."""

MOST_NAMES = 20
"""So many names are in a message; the command that it gives lists the others."""


def choose(
    settings: Settings,
    entries: Sequence[DatasetEntry],
    facts: ModelFacts | None,
    index: Index,
    pins: Pins,
    static: Callable[[Entry], Any],
    others: Callable[[Mapping[str, str]], Mapping[str, ModelFacts]] = lambda models: {},
) -> tuple[Plan, list[TkError]]:
    """The plan, and everything that is wrong with it (a hook with an error has no choice in the plan).

    `facts` is None if the model's could not be read: then no model or media plugin is chosen. `static`
    imports a plugin that was chosen, or that is preferred, to read its static facts: `default_template`
    and `media` of a model plugin, `accepts(facts) -> bool` of a preferred one. `others` gives the facts of
    the further models that the stage's `models` (role -> key) names.
    """
    blocked = blocked_by(pins, index)
    resolved, errors = resolve(pins, index, blocked)
    chooser = _Chooser(settings, index, blocked, resolved, facts, static, errors)
    with_media = next((entry for entry in entries if MEDIA_COLUMNS.intersection(entry.columns or ())), None)
    if facts is not None:
        chooser.model(facts)
    chooser.named("adapter")
    chooser.template()
    for entry in entries:
        chooser.dataset(entry)
    if facts is not None and (facts.is_multimodal or with_media):
        chooser.media(facts, with_media)
    chooser.named("stage")
    for role, other in others(chooser._fact(chooser.taken.get("stage"), "models") or {}).items():
        chooser.model(other, role)
    chooser.named("engine")
    chooser.extensions()
    chooser.unused()
    return Plan(tuple(chooser.choices), tuple(chooser.active)), chooser.errors


Candidate = tuple[str, How, str]
"""A name that facts or a default call for, the rule that does, and the reason in words."""


@dataclass
class _Chooser:
    settings: Settings
    index: Index
    blocked: dict[Entry, Wanted]
    pins: list[Pin]
    facts: ModelFacts | None
    static: Callable[[Entry], Any]
    errors: list[TkError]
    choices: list[Choice] = field(default_factory=list)
    active: list[Choice] = field(default_factory=list)
    used: set[Entry] = field(default_factory=set)
    taken: dict[str, Entry] = field(default_factory=dict)

    # -- one method a kind --------------------------------------------------------------------------

    def model(self, facts: ModelFacts, role: str | None = None) -> None:
        matched: Candidate = (facts.model_type, "matched", f"model_type is {facts.model_type}")
        reason = f"default of models ({facts.model_type} has none)"
        self._choose("model", [matched, (DEFAULTS["model"], "default", reason)], role)

    def named(self, kind: str) -> None:
        """A kind that a key names and that has a default."""
        self._choose(kind, [(DEFAULTS[kind], "default", f"default of {kind}s")])

    def template(self) -> None:
        candidate: Candidate = (DEFAULTS["template"], "default", "default of templates")
        if self.facts is not None and self.facts.chat_template is not None:
            candidate = (DEFAULTS["template"], "default", "the model brings its chat template")
        elif name := self._fact(self.taken.get("model"), "default_template"):
            candidate = (name, "matched", f"the model brings none; {self.taken['model']} names it")
        self._choose("template", [candidate])

    def dataset(self, dataset: DatasetEntry) -> None:
        if dataset.formatting is not None:
            self._pinned("dataset", Wanted(dataset.formatting, dataset.origin), dataset.name)
            return
        names = [n for n in self.index.names("dataset") if {*n.split("+")} <= {*dataset.seen}]
        names.sort(key=lambda n: (-n.count("+"), dataset.seen.index(n.partition("+")[0])))
        if self._preferred("dataset", names, dataset.name):
            return
        found = {name: hits for name in names if (hits := self._installed("dataset", name))}
        best = [name for name in found if name.count("+") == next(iter(found)).count("+")]
        formats = {found[name][0].target: found[name][0] for name in reversed(best)}
        if len(formats) > 1:
            fit = " and ".join(f"{entry} fits {_columns(entry.name)}" for entry in formats.values())
            message, hint = f"the format of {dataset.name!r} is not clear: {fit}.", "Name it"
            error: type[TkError] = AmbiguousProvider
        elif best:
            reason = f"the first row has {_columns(best[0])}"
            self._settle(found[best[0]], "matched", reason, dataset.name, dataset.origin)
            return
        else:
            shown = ", ".join(dataset.seen[:MOST_NAMES])
            seen = f"its columns are {shown}" if shown else "it has no columns"
            message, hint = f"no dataset plugin reads {dataset.name!r}: {seen}.", "Name its format"
            error = NoProvider
        hint += f" with `formatting` in dataset_info.json; registered names and columns: {self._names('dataset')}."
        self.errors.append(error(message, origin=dataset.origin, hint=hint))

    def media(self, facts: ModelFacts, given: DatasetEntry | None) -> None:
        model, candidates = self.taken.get("model"), list[Candidate]()
        if named := self._fact(model, "media"):
            candidates.append((named, "matched", f"{model} names it"))
        candidates.append((facts.model_type, "matched", f"model_type is {facts.model_type}"))
        if not self._found("media", candidates) and (named or given):
            absent = f": {model} names {named!r}, which is not installed."
            lacks = absent if named or not given else f", and dataset {given.name!r} has media."
            hint = f"Installed: {self._names('media')}. Prefer one with `plugins: [media:NAME]`."
            message = f"no media plugin serves models of type {facts.model_type}{lacks}"
            self.errors.append(NoProvider(message, hint=hint, origin=given.origin if given else None))

    def extensions(self) -> None:
        for pin in self.pins:
            found = [e for e in pin.entries if e.kind == "extension"]
            found = found if pin.exact else self._answering(pin, "extension", ())
            for name in dict.fromkeys(e.name for e in found if e not in self.used):
                hits = [e for e in found if e.name == name]
                self._settle(hits, "extension", str(pin.wanted), None, pin.wanted.origin)

    def unused(self) -> None:
        """Every preference that no choice came from."""
        for pin in self.pins:
            if self.used.intersection(pin.entries):
                continue
            ways = [f"`{KEYS[e.kind]}: {e.base}`" for e in pin.entries if e.kind in KEYS]
            ways += [f"a model of type {e.base}" for e in pin.entries if e.kind == "model"]
            named = [f"extension:{e.name}" for e in pin.entries if e.kind == "extension"]
            ways += [preference(name, pin.wanted.origin) for name in named]
            hint = f"It would be used with {' or '.join(dict.fromkeys(ways))}." if ways else None
            if {e.kind for e in pin.entries} == {"command"}:
                hint = f"It is a command: tk {pin.entries[0].name}"
            listed = ", ".join(f"{e.kind}:{e.name}" for e in pin.entries[:8])
            message = f"nothing in this run can use {pin.wanted.name!r}; it registers {listed}."
            self.errors.append(UnusedPlugin(message, origin=pin.wanted.origin, hint=hint))

    # -- the rules ------------------------------------------------------------------------------------

    def _choose(self, kind: str, candidates: Sequence[Candidate], subject: str | None = None) -> None:
        """By the setting, else by preference, else the first candidate that is installed."""
        key = KEYS.get(kind, "")
        if self.settings.get(key) is not None:
            self._pinned(kind, Wanted(str(self.settings[key]), self.settings.origin(key)))
        elif not self._found(kind, candidates, subject):
            name, _, reason = candidates[-1]
            self.errors.append(self._unknown(kind, Wanted(name), reason))

    def _found(self, kind: str, candidates: Sequence[Candidate], subject: str | None = None) -> bool:
        """Settle by preference, else by the first candidate that is installed."""
        if self._preferred(kind, [name for name, _, _ in candidates], subject):
            return True
        for name, how, reason in candidates:
            if hits := self._installed(kind, name):
                self._settle(hits, how, reason, subject, None)
                return True
        return False

    def _installed(self, kind: str, name: str) -> list[Entry]:
        return [e for e in self.index.find(kind, name) if e not in self.blocked and e.door is None]

    def _pinned(self, kind: str, wanted: Wanted, subject: str | None = None) -> None:
        left, colon, name = wanted.name.rpartition(":")
        entries = [e for e in self.index.entries if e.kind == kind and e not in self.blocked]
        doors = [e for e in entries if e.door == wanted.name]
        if colon and not doors:
            entries = [e for e in entries if same_distribution(e.distribution, left)]
        preferred = {entry: pin for pin in self.pins for entry in pin.entries}
        variants = [e for e in entries if e.base == name and e.variant and e in preferred]
        plain = doors or [e for e in entries if e.name == name and e.variant is None]
        reason = f"{KEYS[kind]}: {wanted.name}" + (f" at {wanted.origin}" if wanted.origin else "")
        if variants:
            reason += f", and {preferred[variants[0]].wanted} is preferred"
            self._settle(variants, "preferred", reason, subject, wanted.origin)
        elif plain:
            hits = [e for e in plain if e in preferred] or plain
            self._settle(hits, "pinned", reason, subject, wanted.origin)
        else:
            self.errors.append(self._unknown(kind, wanted))

    def _preferred(self, kind: str, names: Sequence[str], subject: str | None) -> bool:
        """Settle by preference; `names` are what the facts or the default would call, the best first."""
        for exact in (True, False):
            pins = [pin for pin in self.pins if pin.exact == exact]
            found = {entry: pin.wanted for pin in pins for entry in self._answering(pin, kind, names)}
            if found:
                first = next(iter(found.values()))
                self._settle(list(found), "preferred", f"{first} is preferred", subject, first.origin)
                return True
        return False

    def _answering(self, pin: Pin, kind: str, names: Sequence[str]) -> list[Entry]:
        """What a preference offers for a kind: a plugin or variant of one of the names, else its only plugin."""
        entries = [e for e in pin.entries if e.kind == kind]
        for name in names:
            hits = [e for e in entries if e.base == name]
            if hits:
                return [e for e in hits if e.variant] or hits
        plain = [e for e in entries if e.variant is None]
        # Naming the kernel's own distribution settles ties, nothing else.
        foreign = [e for e in plain if e.distribution != PROJECT]
        if kind in ("model", "media") and not pin.exact:
            # A family's plugin serves its family; one that serves others too says which.
            return [e for e in foreign if self._accepts(e)]
        own = [e for e in plain if pin.exact or pin.wanted.name == e.name or is_of(e, e.name)]
        offered = own or foreign
        if len({e.name for e in offered}) == 1 or len({e.target for e in offered if not e.door}) == 1:
            return offered if own else offered[:1]
        return []

    def _accepts(self, entry: Entry) -> bool:
        accepts = self._fact(entry, "accepts")
        try:
            return accepts is not None and bool(accepts(self.facts))
        except Exception as error:
            self.used.add(entry)
            self.errors.append(BrokenPlugin(f"{entry}: `accepts` fails: {type(error).__name__}: {error}"))
            return False

    def _settle(
        self, hits: Sequence[Entry], how: How, reason: str, subject: str | None, origin: str | None
    ) -> None:
        """Take the only one of `hits`, or say that they are equals."""
        self.used.update(hits)
        if len(hits) > 1:
            self.errors.append(_ambiguous(hits, origin))
            return
        entry = self.taken[hits[0].kind] = hits[0]
        choice = Choice(
            hook=KINDS.get(entry.kind, "*"),
            kind=entry.kind,
            name=entry.name,
            distribution=entry.distribution,
            version=entry.version,
            target=entry.target,
            how=how,
            reason=reason,
            subject=subject,
            origin=origin,
        )
        (self.active if how == "extension" else self.choices).append(choice)

    def _fact(self, entry: Entry | None, attribute: str) -> Any:
        """A static fact of a plugin object, None if it has none; a plugin that cannot be loaded is an error."""
        if entry is None:
            return None
        try:
            return getattr(self.static(entry), attribute, None)
        except TkError as error:
            self.used.add(entry)
            if str(error) not in map(str, self.errors):
                self.errors.append(error)
            return None

    # -- what to say -----------------------------------------------------------------------------------

    def _names(self, kind: str) -> str:
        names = self.index.names(kind)
        shown = ", ".join(names[:MOST_NAMES]) or "none"
        more = len(names) - MOST_NAMES
        return f"{shown} and {more} more (tk plugins list {kind})" if more > 0 else shown

    def _unknown(self, kind: str, wanted: Wanted, reason: str | None = None) -> NoProvider:
        name = wanted.name.rpartition(":")[2]
        base, _, variant = name.partition(".")
        blocked = next((e for e in self.blocked if e.kind == kind and e.name == name), None)
        if blocked is not None:
            pin = self.blocked[blocked]
            message, hint = f"{blocked} is needed and blocked by {pin}.", f"Take out `{pin.name}`."
        elif variant and self.index.find(kind, name):
            message = f"{kind}:{name} is a variant, used when {variant} is preferred."
            hint = f"Write `{KEYS[kind]}: {base}` and `plugins: [{variant}]`."
        else:
            message = f"no installed plugin is {kind}:{wanted.name}{f' ({reason})' if reason else ''}."
            offer = f"If a distribution of its own provides it: pip install tk-{name.replace('_', '-')}"
            hint = f"{did_you_mean(name, self.index.names(kind)) or offer}\n  Installed: {self._names(kind)}."
            if unreadable := ", ".join(dict.fromkeys(p.distribution for p in self.index.problems)):
                hint += f"\n  Its metadata cannot be read: {unreadable} (tk plugins list)."
        return NoProvider(message, hint=hint, origin=wanted.origin)


def _columns(name: str) -> str:
    """`the columns 'chosen' and 'rejected'`, for an entry point `chosen+rejected`."""
    shown = " and ".join(map(repr, name.split("+")))
    return f"the columns {shown}" if "+" in name else f"a column {shown}"


def _ambiguous(hits: Sequence[Entry], origin: str | None) -> AmbiguousProvider:
    owners = " and ".join(dict.fromkeys(e.owner for e in hits))
    names = " and ".join(dict.fromkeys(f"{e.kind}:{e.name}" for e in hits))
    hint = "Prefer only one of them."
    if not any(e.door or e.variant for e in hits):
        key = KEYS.get(hits[0].kind)
        specs = [f"{e.distribution}:{e.name}" for e in hits]
        hint = f"Write {' or '.join(f'`{key}: {s}`' if key else preference(s, origin) for s in specs)}."
    return AmbiguousProvider(f"{names} can be answered by {owners}.", hint=hint, origin=origin)
