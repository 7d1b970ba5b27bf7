"""Uploading an export to the hub."""

from __future__ import annotations

from pathlib import Path

from tkernel.errors import TkError


def push(folder: Path, name: str, *, token: str | None, private: bool) -> str:
    """Make repository `name` if it is not there, and upload the folder in one commit; its address.

    Raises:
        TkError: the hub does not answer, or does not let this user in; the folder is whole either way.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        api.create_repo(name, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message="Exported with tk"))
    except Exception as error:  # what the network raises depends on the HTTP library of the hub's client
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise TkError(
            f"the export is in {folder}, and cannot be uploaded to {name}: {reason}",
            hint=f"Log in with `hf auth login` or set `hf_hub_token`, then: hf upload {name} {folder}",
        ) from error
