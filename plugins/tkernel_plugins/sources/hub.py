"""Repositories of the Hugging Face hub: those in the local cache, and small files of the others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tkernel.config.suggest import near_path
from tkernel.errors import ModelNotFound


def hub_folder(
    name: str,
    files: Sequence[str],
    what: str,
    cache_dir: str | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> Path:
    """The cached folder of repository `name`, with those of `files` that it has.

    Fetched from the hub if the first of them is not there and `HF_HUB_OFFLINE` is not set.

    Args:
        files: small ones; the first makes it a model or an adapter.
        what: `a model` or `an adapter`, for messages.

    Raises:
        ModelNotFound: it is not in the cache and cannot be fetched.
    """
    revision = revision or "main"
    repository = Path(cache_dir or _cache()).expanduser() / f"models--{name.replace('/', '--')}"
    reference = repository / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    snapshot = repository / "snapshots" / commit
    if (snapshot / files[0]).is_file():
        return snapshot
    near = near_path(Path(name))
    if Path(name).parent.name and Path(name).parent.is_dir():  # `out/typo`, where there is a folder `out`
        raise ModelNotFound(f"There is no folder {name}.", hint=near)
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ModelNotFound(
            f"{name} is neither a local path nor in the cache ({repository.parent}), and HF_HUB_OFFLINE is set.",
            hint=near or f"Run without HF_HUB_OFFLINE, or: hf download {name}",
        )
    return _download(name, files, what, cache_dir, revision, token, near)


def _cache() -> str:
    home = os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
    return os.environ.get("HF_HUB_CACHE") or os.path.join(os.environ.get("HF_HOME") or home, "hub")


def _download(
    name: str,
    files: Sequence[str],
    what: str,
    cache_dir: str | None,
    revision: str,
    token: str | None,
    near: str | None,
) -> Path:
    try:
        from huggingface_hub import errors as hub
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    except ModuleNotFoundError as error:
        raise ModelNotFound(
            f"{name} is not a local path, and the hub's client is not installed.",
            hint=near or "Run: pip install huggingface_hub",
        ) from error
    try:
        # Asked once without the client's retries, which take half a minute where there is no network.
        get_hf_file_metadata(hf_hub_url(name, files[0], revision=revision), token=token)
        for file in files:
            try:
                path = hf_hub_download(name, file, revision=revision, cache_dir=cache_dir, token=token)
            except hub.RemoteEntryNotFoundError:
                continue  # the first is there, and none of the others is needed
    except Exception as error:
        refusals: dict[type[Exception], tuple[str, str]] = {
            hub.GatedRepoError: (
                "is gated on the hub",
                f"Ask at https://huggingface.co/{name}, then: hf auth login",
            ),
            hub.RepositoryNotFoundError: (
                f"is neither a local path nor {what} on the hub that you may read",
                near or "Check the name, or: hf auth login",
            ),
            hub.RevisionNotFoundError: (
                f"has no revision {revision!r} on the hub",
                "Change `model_revision`.",
            ),
            hub.RemoteEntryNotFoundError: (
                f"has no {files[0]} on the hub",
                f"Name a repository that holds {what}.",
            ),
        }
        if type(error) in refusals:
            words, hint = refusals[type(error)]
            raise ModelNotFound(f"{name} {words}.", hint=hint) from error
        raise ModelNotFound(
            f"{name} is not a local path, and the hub cannot be reached: {error}",
            hint=near or "Check the network, or give a local path.",
        ) from error
    return Path(path).parent
