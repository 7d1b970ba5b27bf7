"""The folder of an export: made beside its place and renamed, so that it is whole or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tkernel.errors import TkError

LOCK = "export.lock.json"
"""What an export was made of; the file by which a folder is known as one of ours."""


@contextmanager
def new_folder(name: str, *, overwrite: bool) -> Iterator[Path]:
    """A folder to write into, which becomes `name` if nothing fails, and is removed otherwise.

    Raises:
        TkError: `name` holds something else than an export of ours that may be overwritten, or cannot be written.
    """
    target = Path(name).expanduser().absolute()
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        if not (target / LOCK).is_file():
            raise TkError(f"export_dir {name} holds other files", hint="Choose another export_dir.")
        if not overwrite:
            hint = "Choose another export_dir, or set `export_overwrite: true`."
            raise TkError(f"export_dir {name} holds an earlier export", hint=hint)
    try:
        draft.mkdir(parents=True)
        yield draft
        if target.exists():
            shutil.rmtree(target)
        draft.rename(target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise TkError(f"cannot write to {name}: {reason}", hint="Choose another export_dir.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
