"""Loading with `unsloth.FastLanguageModel`. unsloth is imported already: the kernel does it first."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from tk_unsloth import Options
from tkernel import ModelBundle
from tkernel.errors import TkError
from tkernel.types.requests import AdapterRequest, ModelRequest
from tkernel.types.slots import Slots
from tkernel_plugins.data.options import PrepareOptions
from tkernel_plugins.models.checkpoint import check_remote_code, source_of
from tkernel_plugins.models.finishing import finish
from tkernel_plugins.models.loading import load as load_plainly
from tkernel_plugins.models.options import ModelOptions
from tkernel_plugins.models.precision import load_dtype
from tkernel_plugins.models.settings import checkpoints_gradients
from tkernel_plugins.models.tokenizer import load_tokenizer

logger = logging.getLogger(__name__)

OFF = {"gradient_checkpointing": False, "activation_checkpointing": False}


@dataclass(frozen=True)
class Checkpoint:
    """What unsloth is given, and the tokenizer that goes with it, which is ours."""

    path: str
    kwargs: dict[str, Any]
    tokenizer: Any
    new_tokens: tuple[int, ...]


def load(request: ModelRequest) -> ModelBundle:
    """Load what `request.facts` describes, in the precision of `precision.load_dtype`.

    A GGUF file, which unsloth cannot read, and random weights are made by the plain loader and handed over in a
    folder that is deleted afterwards. The tokenizer is the plain loader's too, so that text becomes the same ids.

    Raises:
        TkError: what the plain loader raises; bfloat16 or quantisation that unsloth would silently leave out.
    """
    if not request.weights:
        return load_plainly(request)
    from unsloth import FastLanguageModel

    options = request.options or Options()
    given = request.slots.take("load_kwargs") or {}
    _check_silent(request, given)
    if request.settings.get("compute_accuracy"):  # unsloth's fused loss makes no logits
        os.environ["UNSLOTH_RETURN_LOGITS"] = "1"
    with _checkpoint(request, options) as checkpoint:
        module, _ = FastLanguageModel.from_pretrained(
            checkpoint.path,
            max_seq_length=_longest(request, options),
            dtype=load_dtype(request, options),
            load_in_4bit=False,
            full_finetuning=request.trainable and request.settings.get("finetuning_type") == "full",
            use_gradient_checkpointing=checkpointing(request),
            use_exact_model_name=True,  # not an upload of unsloth's own in its place
            random_state=request.seed,
            **checkpoint.kwargs,
            **given,
        )
    name = request.facts.name
    module.config._name_or_path = module.name_or_path = name
    module.config.pad_token_id = checkpoint.tokenizer.pad_token_id
    module.config.use_cache = options.use_kv_cache and not request.trainable
    # unsloth has seen to checkpointing; what else is done to a loaded module is the same for all plugins.
    plain = replace(request, arguments={**request.arguments, **OFF})
    may_grow = bool(checkpoint.new_tokens) or options.resize_vocab
    off = replace(options, disable_gradient_checkpointing=None)
    grown = finish(module, checkpoint.tokenizer, plain, off, may_grow=may_grow)
    new_tokens = tuple(sorted({*checkpoint.new_tokens, *grown}))
    return ModelBundle(module, checkpoint.tokenizer, request.facts, None, request.role, new_tokens)


def checkpointing(request: ModelRequest | AdapterRequest) -> str | bool:
    """`use_gradient_checkpointing` of unsloth: its own kind, or none."""
    if not request.trainable:
        return False
    settings = request.settings
    options = ModelOptions(disable_gradient_checkpointing=settings.get("disable_gradient_checkpointing"))
    plain: Any = request  # both requests have what is looked at
    return "unsloth" if settings.get("use_unsloth_gc") or checkpoints_gradients(plain, options) else False


@contextmanager
def _checkpoint(request: ModelRequest, options: Options) -> Iterator[Checkpoint]:
    facts = request.facts
    if facts.source != "gguf" and not options.train_from_scratch:
        source = source_of(facts, options)
        check_remote_code(facts, options, native=True)
        tokenizer, new_tokens = load_tokenizer(source, options, None)
        kwargs = dict(source.kwargs)
        if facts.source == "hub" and not options.allow_pickle:
            kwargs["use_safetensors"] = True
        yield Checkpoint(source.path, kwargs, tokenizer, new_tokens)
        return
    with tempfile.TemporaryDirectory(prefix="tk-unsloth-") as folder:
        slots = Slots("load_model", once=("load_kwargs",))
        exact = replace(options, infer_dtype="float32")
        bundle = load_plainly(replace(request, trainable=False, role="policy", options=exact, slots=slots))
        logger.info("%s is handed to unsloth in %s", facts.name, folder)
        bundle.module.save_pretrained(folder)
        bundle.tokenizer.save_pretrained(folder)
        tokenizer, new_tokens = bundle.tokenizer, bundle.new_tokens
        del bundle  # before the same weights are read again
        yield Checkpoint(folder, {}, tokenizer, new_tokens)


def _longest(request: ModelRequest, options: Options) -> int:
    """`max_seq_length`, beyond which unsloth cuts samples off on a GPU."""
    if options.model_max_length is not None:
        return options.model_max_length
    if request.trainable:
        return int(request.settings.get("cutoff_len", PrepareOptions.cutoff_len))
    text = request.facts.config.get("text_config") or request.facts.config
    return int(text.get("max_position_embeddings") or PrepareOptions.cutoff_len)


def _check_silent(request: ModelRequest, given: dict[str, Any]) -> None:
    """What unsloth would change or leave out without saying so."""
    import unsloth

    on_cpu = unsloth.DEVICE_TYPE == "cpu"
    if request.arguments.get("bf16") and not unsloth.is_bfloat16_supported():
        raise TkError(
            "`bf16: true` is not for this processor: it would compute in bfloat16 by emulation, and unsloth "
            "turns it off",
            hint="Leave `bf16` out.",
        )
    if on_cpu and given.get("quantization_config") is not None:
        raise TkError("unsloth leaves a quantisation out where there is no GPU", hint="Leave unsloth out.")
