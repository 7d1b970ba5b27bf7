"""What a cached result depends on, by content: the key, and in words why there was no hit."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_SHOWN = 3
_LONG = re.compile(r"(sha256|xxh3):([0-9a-f]{8})[0-9a-f-]*")
_DIGEST = re.compile(r"^(sha256|xxh3):|[0-9a-f]{32}")


@dataclass(frozen=True)
class Key:
    """`components` names everything that the result depends on, with a value or the digest of its content."""

    kind: str
    components: Mapping[str, str]

    @property
    def name(self) -> str:
        """The name of the entry's folder."""
        text = json.dumps(dict(self.components), sort_keys=True)
        return hashlib.sha256(f"{self.kind}\0{text}".encode()).hexdigest()[:32]


@dataclass(frozen=True)
class NoKey:
    """Why it cannot be known what a result depends on."""

    reason: str


@dataclass(frozen=True)
class Difference:
    """A component that two keys do not share; None where one does not have it."""

    component: str
    before: str | None
    now: str | None

    def __str__(self) -> str:
        if _readable(self.before) and _readable(self.now):
            return f"{self.component} changed ({self.before} -> {self.now})"
        verb = "is new" if self.before is None else "is gone" if self.now is None else "changed"
        return f"the {self.component} {verb}"


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[Difference]:
    """The components in which two keys differ, in the order of the newer one."""
    names = dict.fromkeys((*now, *before))
    return [
        Difference(name, before.get(name), now.get(name))
        for name in names
        if before.get(name) != now.get(name)
    ]


def nearest(now: Mapping[str, str], known: Sequence[Mapping[str, str]]) -> list[Difference] | None:
    """How `now` differs from the most similar of `known`; None if there are none."""
    found = [differences(before, now) for before in known]
    return min(found, key=len) if found else None


def missed(key: Key, known: Sequence[Mapping[str, str]]) -> str:
    """Why there is no entry for `key` among those with the components `known`: `miss: the template changed`."""
    found = nearest(key.components, known)
    if found is None:
        return "miss: nothing is cached yet"
    shown = ", ".join(map(str, found[:_SHOWN]))
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"miss: {shown}{more}"


def diff(found: Sequence[Difference]) -> list[str]:
    """Differences as lines with - and +."""
    lines = []
    for item in found:
        for sign, value in (("-", item.before), ("+", item.now)):
            lines += [] if value is None else [f"{sign} {item.component}: {_LONG.sub(_short, value)}"]
    return lines


def _short(digest: re.Match[str]) -> str:
    return f"{digest[1]}:{digest[2]}"


def _readable(value: str | None) -> bool:
    return value is not None and len(value) <= 40 and not _DIGEST.search(value)
