"""Whether a model keeps the samples of a packed row apart, found out by asking it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from tkernel.errors import TkError
from tkernel_plugins.data.collator_packed import PackedCollator, Separation

TEXTS = ("one two three four five six seven eight", "A red fox, a blue owl and a green frog met.")
"""What the model reads in the trial; any two texts do that begin differently."""

ROUNDING = {torch.float64: (1e-9, 1e-6), torch.float32: (1e-4, 5e-3)}
"""Largest differences of logits, as shares of the largest logit, that rounding explains: between two calls of
the same shape, and of different ones (TF32 rounds float32 to ten bits). In 16 bits (1e-2, 5e-2)."""


def check_positions(module: Any, *, has_media: bool = False) -> None:
    """Refuse a model that cannot be told where a sample begins.

    Raises:
        TkError: its `forward` takes no `position_ids`, or the data has media and the model gives them
            positions in two or three dimensions.
    """
    base = _base(module)
    parameters = inspect.signature(base.forward).parameters
    problem = None
    if "position_ids" not in parameters and all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
        problem = "takes no `position_ids`"
    elif has_media and any(hasattr(part, "get_rope_index") for part in base.modules()):
        problem = "gives images and video positions of several dimensions"
    if problem is not None:
        raise TkError(
            f"{type(base).__name__} {problem}, so its samples cannot be packed",
            hint="Leave out `packing`, `neat_packing` and `padding_free`.",
        )


def separation_of(module: Any, tokenizer: Any, *, key: str, longest: int, joined: bool = False) -> Separation:
    """How to keep samples of one row apart in this model.

    Position ids that start again are enough for transformers' own attention masks, which also apply
    sliding windows; older code takes a mask. Which of the two this model understands is tried: two
    samples in one row must give the logits of the second one alone.

    Args:
        module: the model as it will be trained, adapters included.
        tokenizer: makes the ids of the trial.
        key: the option that asks for it, for the message.
        longest: most tokens of a sample.
        joined: whether each batch is one row anyhow.

    Raises:
        TkError: the model mixes the samples either way, as those do that carry a state along the row
            (linear attention, Mamba, convolutions).
    """
    check_positions(module)
    config = _base(module).config.get_text_config()
    attention = str(getattr(config, "_attn_implementation", None))
    by_position = Separation(joined=joined or "flash" in attention)
    if not _is_loaded(module):
        # A model whose weights are spread over processes cannot be tried; its config must do.
        if carries_state(module):
            raise _refusal(module, key)
        return by_position
    if _separates(module, tokenizer, by_position):
        return by_position
    window = getattr(config, "sliding_window", None)
    if not window or longest <= window:
        by_mask = Separation(torch.bool if attention == "sdpa" else _dtype(module), joined)
        try:
            if _separates(module, tokenizer, by_mask):
                return by_mask
        except (TypeError, ValueError, RuntimeError) as error:
            # Code that expects a mask of two dimensions fails in its own way.
            raise _refusal(module, key) from error
    raise _refusal(module, key)


def _separates(module: Any, tokenizer: Any, separation: Separation) -> bool:
    """Whether the logits of a sample are the same behind two other ones, and alone."""
    first, second = (tokenizer.encode(text, add_special_tokens=False)[:16] for text in TEXTS)
    alone = _logits(module, [second], separation)
    behind = _logits(module, [first, second], separation)[len(first) :]
    behind_other = _logits(module, [first[::-1], second], separation)[len(first) :]
    same_shape, other_shape = ROUNDING.get(_dtype(module), (1e-2, 5e-2))
    if carries_state(module):
        same_shape = 0.0  # In a fresh model the state is small.
    largest = float(alone.abs().max())
    leaks = float((behind - behind_other).abs().max()) > same_shape * largest
    return not leaks and float((behind - alone).abs().max()) <= other_shape * largest


def _logits(module: Any, samples: Sequence[Sequence[int]], separation: Separation) -> torch.Tensor:
    """(length, vocabulary) of one row of samples."""
    ids = [token for sample in samples for token in sample]
    row = {"input_ids": ids, "labels": ids, "lengths": [len(sample) for sample in samples], "origins": []}
    batch = PackedCollator(0, separation=separation)([row])
    device = next(module.parameters()).device
    names = ("input_ids", "position_ids", "attention_mask")
    inputs = {name: batch[name].to(device) for name in names if name in batch}
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            return torch.as_tensor(module(**inputs, use_cache=batch.get("use_cache")).logits[0])
    finally:
        for part, training in modes.items():
            part.training = training


def _refusal(module: Any, key: str) -> TkError:
    why = "samples of one row are not kept apart"
    if carries_state(module):
        why = "some of its layers carry a state from one sample of a row to the next"
    return TkError(
        f"`{key}` cannot be used with {type(_base(module)).__name__}: {why}",
        hint="Use `packing: true` without `neat_packing`, where samples see each other, or no packing.",
    )


def carries_state(module: Any) -> bool:
    """What transformers says of models with recurrent layers."""
    base = _base(module)
    layers = set(getattr(base.config.get_text_config(), "layer_types", None) or ())
    return bool(getattr(base, "_is_stateful", False)) or bool(layers & {"linear_attention", "conv", "mamba"})


def _is_loaded(module: Any) -> bool:
    return not any(p.is_meta or hasattr(p, "ds_id") for p in module.parameters())


def _dtype(module: Any) -> torch.dtype:
    """The dtype of the embeddings, which is that of what flows through the model."""
    weight = _base(module).get_input_embeddings().weight
    return weight.dtype if weight.dtype.is_floating_point else torch.float32


def _base(module: Any) -> Any:
    """The transformers model inside of a PEFT model."""
    return module.get_base_model() if hasattr(module, "get_base_model") else module
