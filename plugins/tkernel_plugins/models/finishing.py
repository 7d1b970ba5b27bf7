"""What is done to a module once its weights are in place. Not a plugin; a library of this folder."""

from __future__ import annotations

from typing import Any

from tkernel.errors import TkError
from tkernel.types.requests import ModelRequest
from tkernel_plugins.models.options import ModelOptions
from tkernel_plugins.models.settings import checkpoints_gradients

_MULTIPLE = 64


def finish(
    module: Any, tokenizer: Any, request: ModelRequest, options: ModelOptions, *, may_grow: bool
) -> tuple[int, ...]:
    """Embeddings as large as the tokenizer, modes, gradients, casts.

    Returns:
        The ids whose rows were added to the embeddings.
    """
    added = _fit_embeddings(module, tokenizer, request.seed, may_grow)
    for config in (module.config, module.config.get_text_config(), module.generation_config):
        if config is not None and getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = tokenizer.pad_token_id
    if options.upcast_layernorm:
        _upcast_layernorm(module)
    if options.upcast_lmhead_output:
        module.get_output_embeddings().register_forward_hook(_to_float32)
    module.requires_grad_(request.trainable)
    module.train(request.trainable)
    if checkpoints_gradients(request, options):
        # transformers 5.23 renamed it; older ones know only the second name.
        enable = (
            getattr(module, "activation_checkpointing_enable", None) or module.gradient_checkpointing_enable
        )
        enable({"use_reentrant": options.use_reentrant_gc})
        # With frozen embeddings, the reentrant kind would find no input that needs a gradient.
        module.enable_input_require_grads()
    return added


def _fit_embeddings(module: Any, tokenizer: Any, seed: int, may_grow: bool) -> tuple[int, ...]:
    import torch

    rows = module.get_input_embeddings().weight.shape[0]
    if len(tokenizer) <= rows:
        return ()
    if not may_grow:
        raise TkError(
            f"the tokenizer has {len(tokenizer)} tokens, the embeddings have {rows} rows",
            hint="The two do not belong together; if they do, `resize_vocab: true` adds the missing rows.",
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=_MULTIPLE)
    return tuple(range(rows, len(tokenizer)))


def _upcast_layernorm(module: Any) -> None:
    import torch

    names = set()
    for name, parameter in module.named_parameters():
        layer = name.split(".")[-2]
        if parameter.ndim == 1 and "norm" in layer:
            parameter.data = parameter.data.to(torch.float32)
            names.add(layer)
    # transformers' own list of what stays in float32, which adapters respect.
    module._keep_in_fp32_modules = {*(module._keep_in_fp32_modules or ()), *names}


def _to_float32(module: Any, inputs: Any, output: Any) -> Any:
    import torch

    return output.to(torch.float32)
