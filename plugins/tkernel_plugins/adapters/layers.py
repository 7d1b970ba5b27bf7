"""Choosing layers of a decoder by number and by name. Not a plugin; the library of `freeze`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tkernel.errors import TkError
from tkernel_plugins.adapters.parts import no_match


def selected(
    module: Any, model: str, count: int, parts: tuple[str, ...], extras: tuple[str, ...], new_tokens: bool
) -> Callable[[str], bool]:
    """Whether a parameter, by its name, is one of those to train.

    Args:
        module: the model.
        model: its name, for errors.
        count: how many layers: the last ones if positive, the first ones if negative.
        parts: names inside of these layers, or `all`.
        extras: names outside of all layers.
        new_tokens: the vocabulary grew, so both embeddings are to be trained.

    Raises:
        TkError: more layers than there are, or a name that no module has.
    """
    stack = _stack_of_layers(module)
    total = len(module.get_submodule(stack))
    if count == 0 or abs(count) > total:
        raise TkError(
            f"`freeze_trainable_layers: {count}` of {model}, which has {total} layers",
            hint=f"Use 1 to {total} for the last ones, -1 to -{total} for the first ones.",
        )
    chosen = range(total - count, total) if count > 0 else range(-count)

    paths = [name.split(".")[:-1] for name, _ in module.named_parameters()]
    depth = stack.count(".") + 1
    inside = {step for path in paths if _below(path, stack) for step in path[depth + 1 :]}
    outside = {step for path in paths if not _below(path, stack) for step in path}
    _check("freeze_trainable_modules", parts, inside | {"all"}, model)
    _check("freeze_extra_modules", extras, outside, model)
    always = {*extras, *(_embedding_names(module) if new_tokens else ())}

    def wanted(name: str) -> bool:
        path = name.split(".")[:-1]
        if not _below(path, stack):
            return not always.isdisjoint(path)
        return int(path[depth]) in chosen and ("all" in parts or not set(parts).isdisjoint(path[depth + 1 :]))

    return wanted


def _stack_of_layers(module: Any) -> str:
    import torch

    decoder, total = module.get_decoder(), module.config.get_text_config().num_hidden_layers
    for name, child in module.named_modules():
        if isinstance(child, torch.nn.ModuleList) and len(child) == total and _holds(decoder, child):
            return str(name)
    raise TkError(
        f"the {total} layers of {type(module).__name__} are not in one list, so none can be chosen by number",
        hint="Use `finetuning_type: full` or `lora`.",
    )


def _holds(parent: Any, wanted: Any) -> bool:
    return any(child is wanted for child in parent.modules())


def _below(path: list[str], stack: str) -> bool:
    steps = stack.split(".")
    return path[: len(steps)] == steps


def _embedding_names(module: Any) -> set[str]:
    embeddings = (module.get_input_embeddings(), module.get_output_embeddings())
    return {
        name.rpartition(".")[2]
        for name, child in module.named_modules()
        if any(child is e for e in embeddings)
    }


def _check(key: str, names: tuple[str, ...], known: set[str], model: str) -> None:
    for name in names:
        if name not in known:
            raise no_match(key, name, sorted(known), model)
