"""The training side of `packing`, `neat_packing` and `padding_free`: which collator, and what contradicts it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tkernel.errors import Problem
from tkernel.types.check import CheckRequest
from tkernel.types.requests import StageRequest
from tkernel_plugins.data.canonical import MEDIA
from tkernel_plugins.data.options import PrepareOptions
from tkernel_plugins.data.packing import packing_of

BY_LENGTH = ("group_by_length", "batch_rebalance")


def check_joining(request: CheckRequest) -> Iterator[Problem]:
    """What contradicts packing, told before anything is loaded."""
    options, arguments = request.options, request.arguments
    if not isinstance(options, PrepareOptions):
        return
    packed = "neat_packing" if options.neat_packing else "packing" if options.packing else None
    separate = packed == "neat_packing" or options.padding_free
    strategy = arguments.get("train_sampling_strategy")
    if packed and strategy in BY_LENGTH:
        yield Problem(
            f"`train_sampling_strategy: {strategy}` sorts samples by length, and with `{packed}` all rows are full",
            key="train_sampling_strategy",
            hint="Keep one of the two.",
        )
    if strategy in BY_LENGTH and str(request.settings.get("streaming")).lower() in ("true", "yes", "on"):
        yield Problem(
            f"`train_sampling_strategy: {strategy}` needs the lengths of all samples, and a stream has none",
            key="train_sampling_strategy",
            hint="Leave it out, or leave out `streaming`.",
        )
    if separate and arguments.get("use_cache"):
        key = packed or "padding_free"
        yield Problem(
            f"with `use_cache: true` models do not keep the samples of a row apart, and `{key}` asks for that",
            key="use_cache",
            hint="Leave `use_cache` out: training does not need it.",
        )


def collator_for(request: StageRequest, rows: str, pad_token_id: int) -> Any:
    """The collator of samples of the kind `rows` (`supervised`, `text`), joined as the options ask.

    Called before data is prepared, for it may find that the model cannot do what they ask.

    Raises:
        TkError: the model mixes samples that must be kept apart, see `separation_of`.
    """
    from tkernel_plugins.data.collator_text import TextCollator

    collator = _collator(request, rows, pad_token_id)
    options: PrepareOptions = request.options or PrepareOptions()
    ignores = rows == "text" and options.ignore_pad_token_for_loss
    return TextCollator(collator, pad_token_id) if ignores else collator


def _collator(request: StageRequest, rows: str, pad_token_id: int) -> Any:
    from tkernel_plugins.data.collator import SupervisedCollator
    from tkernel_plugins.data.collator_packed import PackedCollator
    from tkernel_plugins.training.separation import check_positions, separation_of

    options: PrepareOptions = request.options or PrepareOptions()
    module, tokenizer = request.bundle.module, request.bundle.tokenizer
    packing = packing_of(options, rows, tokenizer)
    if packing is None and not options.padding_free:
        learned = not options.ignore_pad_token_for_loss
        multiple = None if rows == "text" else 8
        return SupervisedCollator(
            pad_token_id, pad_to_multiple_of=multiple, media=request.media, learn_padding=learned
        )
    check_positions(module, has_media=_has_media(request))
    separation = None
    if packing is None or packing.separate:
        separation = separation_of(
            module,
            tokenizer,
            key="padding_free" if packing is None else "neat_packing",
            longest=options.cutoff_len,
            joined=packing is None,
        )
    return PackedCollator(
        pad_token_id,
        padded=None if packing is None else packing.padded,
        separation=separation,
        run_on=packing is not None and packing.blocks and not packing.separate,
        media=request.media,
    )


def _has_media(request: StageRequest) -> bool:
    columns = {name for loaded in (*request.train, *request.eval) for name in loaded.rows.column_names or ()}
    return bool(columns & set(MEDIA))
