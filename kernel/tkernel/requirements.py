"""What a distribution requires, checked from its metadata before anything of it is imported."""

from __future__ import annotations

from collections.abc import Callable

from tkernel.errors import BrokenPlugin, IncompatibleApi, MissingRequirement, PluginError
from tkernel.hookspecs import PROJECT
from tkernel.index import Entry, normalise


def installed_version(name: str) -> str | None:
    """The installed version of a distribution, None if there is none."""
    import importlib_metadata

    try:
        return importlib_metadata.version(name)
    except importlib_metadata.PackageNotFoundError:
        return None


def unmet(entry: Entry, version_of: Callable[[str], str | None] = installed_version) -> PluginError | None:
    """The first thing that keeps `entry` from being imported, the API range before all others.

    Only direct requirements are looked at, with their markers and with the extras that the entry
    point names.
    """
    if not entry.requires or (entry.distribution == PROJECT and not entry.extras):
        return None
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirements = [Requirement(text) for text in entry.requires]
    except InvalidRequirement as error:
        return BrokenPlugin(f"{entry} has a requirement that cannot be read: {error}")
    environments = [{"extra": extra} for extra in ("", *entry.extras)]
    requirements = [
        requirement
        for requirement in requirements
        if requirement.marker is None or any(requirement.marker.evaluate(e) for e in environments)
    ]
    requirements.sort(key=lambda requirement: normalise(requirement.name) != PROJECT)
    for requirement in requirements:
        version = version_of(requirement.name)
        wanted = f"{requirement.name}{requirement.specifier}"
        if version is not None and requirement.specifier.contains(version, prereleases=True):
            continue
        if normalise(requirement.name) == PROJECT:
            return IncompatibleApi(
                f"{entry} needs {wanted}; this is {PROJECT} {version or 'not installed by pip'}.",
                hint=f"Run: pip install --upgrade '{wanted}' {entry.distribution}",
            )
        state = "which is not installed" if version is None else f"and {version} is installed"
        optional = requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})
        extra = f"{entry.distribution}[{','.join(entry.extras)}]"
        return MissingRequirement(
            f"{entry} needs {wanted}, {state}.", hint=f"Run: pip install '{extra if optional else wanted}'"
        )
    return None
