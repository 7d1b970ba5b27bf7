"""Encoded samples in the cache, and at `tokenized_path`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from tkernel.errors import LockMismatch, TkError
from tkernel.types.requests import StageRequest
from tkernel_plugins.data.cache import copied, kept
from tkernel_plugins.data.cache_entry import Damaged, Entry, Write, verified, words_of_time
from tkernel_plugins.data.cache_key import Difference, Key, NoKey, diff, differences
from tkernel_plugins.data.cache_parts import (
    code,
    digest_media,
    digest_processor,
    digest_template,
    digest_tokenizer,
)
from tkernel_plugins.data.cache_rows import digest_of
from tkernel_plugins.data.canonical import MEDIA
from tkernel_plugins.data.options import PrepareOptions

T = TypeVar("T")

_NOT_IN_KEY = ("overwrite_cache", "preprocessing_num_workers", "tokenized_path")
"""Options that change how samples are made and not what they are."""

_OF_DATA = "dataset "


def keep_samples(
    request: StageRequest, rows: str, options: PrepareOptions, write: Write, opened: Callable[[Entry], T]
) -> T:
    """What `opened` makes of the samples of a run, which `write` encodes if they are not there.

    Raises:
        LockMismatch: `tokenized_path` holds samples of other data, options, template or tokenizer; the
            message is the diff.
        TkError: `tokenized_path` holds something else, or what it should hold cannot be known.
    """
    key = sample_key(request, rows, options)
    names = ", ".join(loaded.entry.name for loaded in request.train) or "no dataset"
    label = f"{names}; {rows}, {getattr(request.renderer, 'name', '?')}, cutoff_len {options.cutoff_len}"
    if options.tokenized_path is None:
        return kept(key, write, opened, label, rebuild=options.overwrite_cache, told=_tell)
    target = Path(options.tokenized_path).expanduser()
    if isinstance(key, NoKey):
        raise TkError(
            f"`tokenized_path` cannot be used: {key.reason}",
            hint="Leave it out, or install what is in memory as a plugin.",
        )
    named = bool(request.train or request.eval)
    found = _at(target)
    if found is not None and not (named and options.overwrite_cache):
        _refuse_other(found, key, named)
        found = Entry(target, found.manifest, True, f"hit: {target}, prepared {words_of_time(found.age)} ago")
        _tell(found.outcome)
        return opened(found)
    if not named:
        raise TkError(
            f"there are no prepared data at `tokenized_path: {target}`, and no `dataset` to prepare",
            hint="Name the dataset once: what is prepared is saved there.",
        )

    def saved(entry: Entry) -> T:
        _tell(f"saved to {target}")
        return opened(copied(entry, target))

    return kept(key, write, saved, label, rebuild=options.overwrite_cache, told=_tell)


def _tell(outcome: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(f"cache: {outcome}", file=sys.stderr, flush=True)


def sample_key(request: StageRequest, rows: str, options: PrepareOptions) -> Key | NoKey:
    """What the samples of a run depend on, by content."""
    if "template" not in request.identities:
        return NoKey("the template is an object in memory")
    tokenizer = digest_tokenizer(getattr(request.bundle, "tokenizer", None))
    if tokenizer is None:
        return NoKey("the tokenizer cannot write down what it does")
    chosen = {
        field.name: str(getattr(options, field.name))
        for field in fields(PrepareOptions)
        if field.name not in _NOT_IN_KEY
    }
    media, extensions = _media(request), _extensions(request)
    if isinstance(media, NoKey):
        return media
    if isinstance(extensions, NoKey):
        return extensions
    drawn = options.val_size or options.interleave_probs
    return Key(
        "samples",
        {
            **dict(_data(request)),
            "datasets": _named(request.train),
            "eval datasets": _named(request.eval),
            "kind of rows": rows,
            "template": f"{request.identities['template']} {digest_template(request.renderer)}",
            "template options": request.identities.get("template options", ""),
            "tokenizer": tokenizer,
            **chosen,
            "on_bad_row": str(request.settings.get("on_bad_row", "error")),
            **({"seed": str(request.seed)} if drawn else {}),
            **media,
            **extensions,
            **code(),
        },
    )


def _data(request: StageRequest) -> Iterator[tuple[str, str]]:
    for group, datasets in (("", request.train), ("eval ", request.eval)):
        for loaded in datasets:
            yield f"{group}{_OF_DATA}{loaded.entry.name}", digest_of(loaded.rows)


def _named(datasets: Any) -> str:
    return ", ".join(loaded.entry.name for loaded in datasets)


def _extensions(request: StageRequest) -> dict[str, str] | NoKey:
    """Components of the extensions that may change what the template or the media processor makes."""
    found = {}
    for key, options in request.identities.items():
        name = key.removesuffix(" options")
        if name.startswith("extension ") and name != key:
            if name not in request.identities:
                return NoKey(f"the {name} is an object in memory")
            found[name] = f"{request.identities[name]} {options}"
    return found


def _media(request: StageRequest) -> dict[str, str] | NoKey:
    """Components of runs with media: the processor, and the files."""
    if request.media is None:
        return {}
    if "media" not in request.identities:
        return NoKey("the media processor is an object in memory")
    processor = digest_processor(getattr(request.bundle, "processor", None))
    if processor is None:
        return NoKey("the model's processor cannot write down what it does")
    datasets = [loaded.rows for loaded in (*request.train, *request.eval)]
    tables = (
        batch
        for rows in datasets
        for batch in rows.select_columns([n for n in MEDIA if n in rows.column_names])
        .with_format("arrow")
        .iter(batch_size=1000)
    )
    return {
        "media processor": f"{request.identities['media']} {processor}",
        "media options": request.identities.get("media options", ""),
        "media files": digest_media(tables),
    }


def _at(target: Path) -> Entry | None:
    """The samples at `tokenized_path`; None if there is nothing."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    try:
        return verified(target)
    except Damaged as damage:
        raise TkError(
            f"`tokenized_path: {target}` holds no data that tk has prepared: {damage}",
            hint="Name a folder that is empty or not there yet; what is prepared is saved in it.",
        ) from None


def _refuse_other(entry: Entry, key: Key, with_data: bool) -> None:
    """Raise the diff if `entry` is not what `key` asks for; what data it is does not matter if none are named."""
    found = differences(entry.components, key.components)
    found = [item for item in found if with_data or not _of_data(item)]
    if found:
        raise LockMismatch(
            "\n  ".join([f"`tokenized_path: {entry.folder}` holds samples of another run", *diff(found)]),
            hint="Restore what the `-` lines say, name another folder, or prepare anew: `overwrite_cache: true`.",
        )


def _of_data(item: Difference) -> bool:
    name = item.component.removeprefix("eval ")
    return name.startswith(_OF_DATA) or name in ("datasets", "seed")
