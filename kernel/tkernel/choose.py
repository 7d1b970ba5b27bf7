"""Who answers which hook: a pure function of settings, facts and what is installed.

For each hook exactly one provider is chosen, by the first rule that gives one: *pinned* (a setting names
it), *preferred* (`--plugin X`, `plugins: [X]`), *matched* (its name is the fact), *default*. A variant
(`lora.unsloth`) answers `lora` when unsloth is preferred, and never otherwise. Two equals are an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tkernel.config.suggest import did_you_mean
from tkernel.errors import AmbiguousProvider, BrokenPlugin, NoProvider, TkError, UnusedPlugin
from tkernel.hookspecs import KINDS, PROJECT
from tkernel.index import Entry, Index
from tkernel.pins import (
    DatasetWanted,
    Pin,
    Pins,
    Selection,
    Wanted,
    blocked_by,
    is_of,
    named_by,
    same_distribution,
    unknown_pin,
    use_names,
)
from tkernel.states import PluginState, plugin_states
from tkernel.types.facts import ModelFacts
from tkernel.types.plan import Choice, How, Plan

__all__ = [
    "DatasetWanted",
    "Pins",
    "PluginState",
    "Selection",
    "Wanted",
    "choose",
    "plugin_states",
    "use_names",
]

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


def choose(
    selection: Selection,
    facts: ModelFacts | None,
    index: Index,
    pins: Pins,
    static: Callable[[Entry], Any],
) -> tuple[Plan, list[TkError]]:
    """The plan, and everything that is wrong with it (a hook with an error has no choice in the plan).

    `facts` is None if the model's could not be read: then no model or media plugin is chosen. `static`
    imports a plugin that was chosen, or that is preferred, to read its static facts: `default_template`
    and `media` of a model plugin, `accepts(facts) -> bool` of a preferred one.
    """
    chooser = _Chooser(index, pins, facts, static)
    chooser.model()
    chooser.named("adapter", selection.finetuning_type)
    chooser.template(selection.template)
    for dataset in selection.datasets:
        chooser.dataset(dataset)
    if facts is not None and (facts.is_multimodal or selection.needs_media):
        chooser.media(selection.needs_media)
    chooser.named("stage", selection.stage)
    chooser.named("engine", selection.infer_backend)
    chooser.extensions()
    chooser.unused()
    return Plan(tuple(chooser.choices), tuple(chooser.active)), chooser.errors


@dataclass
class _Chooser:
    index: Index
    given: Pins
    facts: ModelFacts | None
    static: Callable[[Entry], Any]
    choices: list[Choice] = field(default_factory=list)
    active: list[Choice] = field(default_factory=list)
    errors: list[TkError] = field(default_factory=list)
    used: set[Entry] = field(default_factory=set)
    taken: dict[str, Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.blocked = blocked_by(self.given, self.index)
        self.open = [entry for entry in self.index.entries if entry not in self.blocked]
        self.pins: list[Pin] = []
        aliases = use_names(self.index)
        uses = [(use, aliases.get(use.name, use.name.removeprefix("use_"))) for use in self.given.uses]
        for wanted, spec in [*((pin, pin.name) for pin in self.given.plugins), *uses]:
            blocking = spec.startswith("no:")
            entries, exact = named_by(spec.removeprefix("no:"), self.index.entries if blocking else self.open)
            if not entries:
                error = unknown_pin(wanted, spec.removeprefix("no:"), self.index, self.blocked)
                if not (blocking and isinstance(error, BrokenPlugin)):  # it provides nothing, as wished
                    self.errors.append(error)
            elif not blocking:
                self.pins.append(Pin(wanted, entries, exact))

    # -- one method a kind --------------------------------------------------------------------------

    def model(self) -> None:
        if self.facts is None:
            return
        model_type, default = self.facts.model_type, DEFAULTS["model"]
        if self._preferred("model", (model_type, default)):
            return
        if hits := self._hits("model", model_type):
            self._settle("model", model_type, hits, "matched", f"model_type is {model_type}")
        else:
            reason = f"default of models ({model_type} has none)"
            self._settle("model", default, self._hits("model", default), "default", reason)

    def named(self, kind: str, wanted: Wanted | None) -> None:
        """A kind that a key names and that has a default."""
        if wanted is not None:
            self._pinned(kind, wanted)
        elif not self._preferred(kind, (DEFAULTS[kind],)):
            name = DEFAULTS[kind]
            self._settle(kind, name, self._hits(kind, name), "default", f"default of {kind}s")

    def template(self, wanted: Wanted | None) -> None:
        brings = self.facts is not None and self.facts.chat_template is not None
        named = None if brings else self._static("model", "default_template")
        name = named or DEFAULTS["template"]
        if wanted is not None:
            self._pinned("template", wanted)
        elif self._preferred("template", (name,)):
            return
        elif named:
            reason = f"the model brings none; {self.taken['model']} names it"
            self._settle("template", name, self._hits("template", name), "matched", reason)
        else:
            reason = "the model brings its chat template" if brings else "default of templates"
            self._settle("template", name, self._hits("template", name), "default", reason)

    def dataset(self, dataset: DatasetWanted) -> None:
        columns = dataset.columns or ()
        if dataset.formatting is not None:
            self._pinned("dataset", Wanted(dataset.formatting, dataset.origin), dataset.name)
            return
        if self._preferred("dataset", columns, dataset.name):
            return
        for column in columns:
            if hits := self._hits("dataset", column):
                reason = f"the first row has a column {column!r}"
                self._settle("dataset", column, hits, "matched", reason, dataset.name, dataset.origin)
                return
        seen = (
            f"its columns are {', '.join(columns)}" if columns else "its columns are not known before loading"
        )
        self.errors.append(
            NoProvider(
                f"no dataset plugin reads {dataset.name!r}: {seen}.",
                origin=dataset.origin,
                hint="Name its format with `formatting` in dataset_info.json; "
                f"registered names and columns: {self._names('dataset')}.",
            )
        )

    def media(self, needed: bool) -> None:
        assert self.facts is not None
        named = self._static("model", "media")
        model = self.taken.get("model")
        names = [name for name in (named, self.facts.model_type) if name]
        if self._preferred("media", names):
            return
        for name in names:
            if hits := self._hits("media", name):
                reason = f"{model} names it" if name == named else f"model_type is {name}"
                self._settle("media", name, hits, "matched", reason)
                return
        if named or needed:
            self.errors.append(
                NoProvider(
                    f"no media plugin serves models of type {self.facts.model_type}"
                    + (f": {model} names {named!r}, which is not installed." if named else "."),
                    hint=f"Installed: {self._names('media')}. Prefer one with `plugins: [media:NAME]`.",
                )
            )

    def extensions(self) -> None:
        for pin in self.pins:
            found = [e for e in pin.entries if e.kind == "extension"]
            found = found if pin.exact else self._answering(pin, "extension", ())
            for name in dict.fromkeys(e.name for e in found if e not in self.used):
                hits = [e for e in found if e.name == name]
                self._settle("extension", name, hits, "extension", str(pin.wanted), None, pin.wanted.origin)

    def unused(self) -> None:
        """Every preference that no choice came from."""
        for pin in self.pins:
            if self.used.intersection(pin.entries):
                continue
            kinds = {e.kind for e in pin.entries}
            ways = [f"`{KEYS[e.kind]}: {e.base}`" for e in pin.entries if e.kind in KEYS]
            ways += [f"a model of type {e.base}" for e in pin.entries if e.kind == "model"]
            ways += [f"`plugins: [extension:{e.name}]`" for e in pin.entries if e.kind == "extension"]
            hint = f"It would be used with {' or '.join(dict.fromkeys(ways))}." if ways else None
            if kinds == {"command"}:
                hint = f"It is a command: tk {pin.entries[0].name}"
            listed = ", ".join(f"{e.kind}:{e.name}" for e in pin.entries[:8])
            self.errors.append(
                UnusedPlugin(
                    f"nothing in this run can use {pin.wanted.name!r}; it registers {listed}.",
                    origin=pin.wanted.origin,
                    hint=hint,
                )
            )

    # -- the rules ------------------------------------------------------------------------------------

    def _pinned(self, kind: str, wanted: Wanted, subject: str | None = None) -> None:
        left, colon, name = wanted.name.rpartition(":")
        entries = [
            e for e in self.open if e.kind == kind and (not colon or same_distribution(e.distribution, left))
        ]
        preferred = {entry: pin for pin in self.pins for entry in pin.entries}
        variants = [e for e in entries if e.base == name and e.variant and e in preferred]
        plain = [e for e in entries if e.name == name and e.variant is None]
        reason = f"{KEYS[kind]}: {wanted.name}"
        if wanted.origin:
            reason += f" at {wanted.origin}"
        if variants:
            reason += f", and {preferred[variants[0]].wanted} is preferred"
            self._settle(kind, name, variants, "preferred", reason, subject, wanted.origin)
        elif plain:
            hits = [e for e in plain if e in preferred] or plain
            self._settle(kind, name, hits, "pinned", reason, subject, wanted.origin)
        else:
            self.errors.append(self._unknown(kind, wanted))

    def _preferred(self, kind: str, names: Sequence[str], subject: str | None = None) -> bool:
        """Settle by preference; `names` are what the facts or the default would call, the best first."""
        for exact in (True, False):
            found: dict[Entry, Wanted] = {}
            for pin in self.pins:
                if pin.exact == exact:
                    found |= dict.fromkeys(self._answering(pin, kind, names), pin.wanted)
            for entry, wanted in found.items():
                reason = f"{wanted} is preferred"
                self._settle(kind, entry.name, list(found), "preferred", reason, subject, wanted.origin)
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
        if kind in ("model", "media") and not pin.exact:
            # A family's plugin serves its family; one that serves others too says which.
            offered = [e for e in plain if e.distribution != PROJECT]
            return [e for e in offered if self._accepts(e)]
        own = [e for e in plain if pin.exact or pin.wanted.name == e.name or is_of(e, e.name)]
        # Naming the kernel's own distribution settles ties, nothing else.
        offered = own or [e for e in plain if e.distribution != PROJECT]
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

    def _hits(self, kind: str, name: str) -> list[Entry]:
        return [e for e in self.open if e.kind == kind and e.name == name and e.door is None]

    def _settle(
        self,
        kind: str,
        name: str,
        hits: Sequence[Entry],
        how: How,
        reason: str,
        subject: str | None = None,
        origin: str | None = None,
    ) -> None:
        """Take the only one of `hits`, or say why there is none."""
        if len(hits) == 1:
            self._take(hits[0], how, reason, subject, origin)
        elif hits:
            self.used.update(hits)
            self.errors.append(_ambiguous(kind, hits, origin))
        else:
            self.errors.append(self._unknown(kind, Wanted(name, origin), reason))

    def _take(self, entry: Entry, how: How, reason: str, subject: str | None, origin: str | None) -> None:
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
        self.used.add(entry)
        self.taken[entry.kind] = entry
        (self.active if how == "extension" else self.choices).append(choice)

    def _static(self, kind: str, attribute: str) -> Any:
        """A static fact of the plugin taken for `kind`."""
        entry = self.taken.get(kind)
        return None if entry is None else self._fact(entry, attribute)

    def _fact(self, entry: Entry, attribute: str) -> Any:
        try:
            return getattr(self.static(entry), attribute, None)
        except TkError as error:
            self.used.add(entry)
            if str(error) not in map(str, self.errors):
                self.errors.append(error)
            return None

    # -- what to say -----------------------------------------------------------------------------------

    def _names(self, kind: str) -> str:
        return ", ".join(self.index.names(kind)) or "none"

    def _unknown(self, kind: str, wanted: Wanted, reason: str | None = None) -> NoProvider:
        name = wanted.name.rpartition(":")[2]
        key = KEYS.get(kind)
        for entry, pin in self.blocked.items():
            if entry.kind == kind and entry.name == name:
                return NoProvider(
                    f"{entry} is needed and blocked by {pin}.",
                    hint=f"Take out `{pin.name}`.",
                    origin=wanted.origin,
                )
        base, _, variant = name.partition(".")
        if variant and self.index.find(kind, name):
            hint = f"Write `{key}: {base}` and `plugins: [{variant}]`." if key else None
            return NoProvider(
                f"{kind}:{name} is a variant, used when {variant} is preferred.",
                hint=hint,
                origin=wanted.origin,
            )
        why = f" ({reason})" if reason else ""
        close = did_you_mean(name, self.index.names(kind))
        offer = f"If a distribution of its own provides it: pip install tk-{name.replace('_', '-')}"
        return NoProvider(
            f"no installed plugin is {kind}:{wanted.name}{why}.",
            origin=wanted.origin,
            hint=f"{close or offer}\n  Installed: {self._names(kind)}.",
        )


def _ambiguous(kind: str, hits: Iterable[Entry], origin: str | None) -> AmbiguousProvider:
    hits = list(hits)
    owners = " and ".join(dict.fromkeys(e.owner for e in hits))
    names = " and ".join(dict.fromkeys(f"{kind}:{e.name}" for e in hits))
    if any(e.door for e in hits) or any(e.variant for e in hits):
        line = "Take one of them out of `plugins:`."
    else:
        key = KEYS.get(kind)
        specs = [f"{e.distribution}:{e.name}" for e in hits]
        lines = [f"`{key}: {spec}`" if key else f"`plugins: [{spec}]`" for spec in specs]
        line = f"Write {' or '.join(lines)}."
    return AmbiguousProvider(f"{names} can be answered by {owners}.", hint=line, origin=origin)
