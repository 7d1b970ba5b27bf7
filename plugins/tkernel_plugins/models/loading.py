"""Loading a model, top to bottom. Not a plugin; the library behind every built-in model plugin."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tkernel.errors import TkError
from tkernel.types.bundle import ModelBundle
from tkernel.types.facts import ModelFacts
from tkernel.types.requests import ModelRequest
from tkernel_plugins.garbage import seldom_searched
from tkernel_plugins.models.checkpoint import Source, check_remote_code, source_of
from tkernel_plugins.models.classifier import is_classifier, load_classifier
from tkernel_plugins.models.few_bits import UNUSED, few_bits_arguments
from tkernel_plugins.models.gguf_file import GgufFile, read_gguf
from tkernel_plugins.models.options import ModelOptions

logger = logging.getLogger(__name__)


@seldom_searched()
def load(request: ModelRequest) -> ModelBundle:
    """Load what `request.facts` describes: a folder, a hub id or a GGUF file.

    Returns:
        The bundle. To be trained: train mode, every parameter requires a gradient, no key-value cache,
        gradient checkpointing as decided by `checkpoints_gradients`. Otherwise: eval mode, no gradients.
        The precision is that of `precision.load_dtype`.

    Raises:
        TkError: files missing or damaged, pickles or remote code without permission, an attention
            implementation that is not installed, an option that the model has no use for.
    """
    facts, options = request.facts, request.options or ModelOptions()
    source = source_of(facts, options, request.weights)
    if not request.weights:
        return _without_weights(request, source, options)
    load_kwargs = request.slots.take("load_kwargs") or {}

    from tkernel_plugins.models.finishing import finish
    from tkernel_plugins.models.precision import load_dtype
    from tkernel_plugins.models.settings import adjust_config, weight_arguments
    from tkernel_plugins.models.tokenizer import load_processor, load_tokenizer

    file = read_gguf(source.path) if facts.source == "gguf" else None
    with _explained(facts, source):
        config = _load_config(facts, source, file, options)
        adjust_config(config, request, options)
        tokenizer, new_tokens = load_tokenizer(source, options, file)
        processor = load_processor(facts, source, tokenizer)
        dtype = load_dtype(request, options)
        kwargs = {**weight_arguments(request, options), "dtype": dtype, **load_kwargs}
        module = _load_module(request, source, file, config, kwargs, options)
    module.config._name_or_path = module.name_or_path = facts.name
    grown = finish(module, tokenizer, request, options, may_grow=bool(new_tokens) or options.resize_vocab)
    new_tokens = tuple(sorted({*new_tokens, *grown}))
    return ModelBundle(module, tokenizer, facts, processor, request.role, new_tokens)


def _without_weights(request: ModelRequest, source: Source, options: ModelOptions) -> ModelBundle:
    """The bundle of `load` without a module; of weights nothing is read but the header of a GGUF file."""
    from tkernel_plugins.models.tokenizer import load_processor, load_tokenizer

    request.slots.take("load_kwargs")
    file = read_gguf(source.path) if request.facts.source == "gguf" else None
    with _explained(request.facts, source):
        tokenizer, new_tokens = load_tokenizer(source, options, file)
        processor = load_processor(request.facts, source, tokenizer)
    return ModelBundle(None, tokenizer, request.facts, processor, request.role, new_tokens)


def _load_config(facts: ModelFacts, source: Source, file: GgufFile | None, options: ModelOptions) -> Any:
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if file is not None:
        from tkernel_plugins.models.gguf_weights import gguf_config, is_direct

        if is_direct(file):
            return gguf_config(file, facts.model_type)
        return AutoConfig.from_pretrained(str(file.path.parent), gguf_file=file.path.name)
    check_remote_code(facts, options, native=facts.model_type in CONFIG_MAPPING)
    return AutoConfig.from_pretrained(source.path, **source.kwargs)


def _load_module(
    request: ModelRequest,
    source: Source,
    file: GgufFile | None,
    config: Any,
    kwargs: dict[str, Any],
    options: ModelOptions,
) -> Any:
    import torch

    if options.train_from_scratch:
        auto = _auto_class(config, request.facts)
        wanted = {key: kwargs[key] for key in ("dtype", "attn_implementation") if key in kwargs}
        with torch.random.fork_rng():
            torch.manual_seed(request.seed)
            return auto.from_config(config, trust_remote_code=options.trust_remote_code, **wanted)
    kwargs["output_loading_info"] = True
    if file is not None:
        module, report = _load_gguf(file, config, kwargs)
    else:
        pickles = {} if options.allow_pickle else {"use_safetensors": True}
        kwargs = {
            **source.kwargs,
            **pickles,
            **few_bits_arguments(config, request.facts.name),
            **kwargs,
        }
        if is_classifier(request.facts):
            module, report = load_classifier(request, source.path, config, kwargs)
        else:
            auto = _auto_class(config, request.facts)
            module, report = auto.from_pretrained(source.path, config=config, **kwargs)
    _check_complete(module, report, request.facts.name)
    # transformers puts an adapter that lies beside the weights into the model, unasked.
    if getattr(module, "_hf_peft_config_loaded", False):
        raise TkError(
            f"{request.facts.name} holds an adapter beside the model",
            hint="Move adapter_config.json and adapter_model.safetensors to a folder of their own, and name "
            "that in `adapter_name_or_path` to use the adapter.",
        )
    return module


def _load_gguf(file: GgufFile, config: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:
    import transformers
    from transformers import AutoModelForCausalLM

    from tkernel_plugins.models.gguf_weights import gguf_state_dict, is_direct

    if is_direct(file):
        weights = gguf_state_dict(file, config, kwargs["dtype"])
        model_class = AutoModelForCausalLM._model_mapping[type(config)]
        module, report = model_class.from_pretrained(None, config=config, state_dict=weights, **kwargs)
        return module, report
    if hasattr(transformers, "GgufConfig"):  # before there was one, every file was dequantised
        kwargs = {"quantization_config": transformers.GgufConfig(dequantize=True), **kwargs}
    folder, name = str(file.path.parent), file.path.name
    module, report = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, config=config, **kwargs)
    return module, report


def _check_complete(module: Any, report: Any, name: str) -> None:
    kind, missing, unused = (
        type(module).__name__,
        *map(sorted, (report["missing_keys"], report["unexpected_keys"])),
    )
    if missing:
        raise TkError(
            f"{name} lacks {len(missing)} of the weights that {kind} needs: {_some(missing)}",
            hint="They would be random numbers. Is it a complete causal language model?",
        )
    unused = [key for key in unused if not key.endswith(UNUSED)]
    if unused:
        logger.warning("%s has %d weights that %s does not use: %s", name, len(unused), kind, _some(unused))


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")


def _auto_class(config: Any, facts: ModelFacts) -> Any:
    import transformers

    names = ["AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForSeq2SeqLM"]
    if facts.is_multimodal:
        names = [*names[1:], names[0]]
    for name in names:
        auto = getattr(transformers, name)
        if type(config) in auto._model_mapping or name in getattr(config, "auto_map", {}):
            return auto
    raise TkError(
        f"{facts.name} is of type {config.model_type!r}, which is not a language model that transformers can "
        f"load ({', '.join(names)})"
    )


@contextmanager
def _explained(facts: ModelFacts, source: Source) -> Iterator[None]:
    """Turns what transformers raises while loading into an error that says what to do."""
    from safetensors import SafetensorError

    try:
        yield
    except TkError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().split("\n")[0]
        raise TkError(f"{facts.name} cannot be loaded: {first}", hint=_hint(error, facts, source)) from error


def _hint(error: BaseException, facts: ModelFacts, source: Source) -> str:
    import torch
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

    if isinstance(error, torch.OutOfMemoryError):
        return "Take a smaller model, `infer_dtype: bfloat16`, or `device_map: auto` to use more devices."
    if facts.source == "gguf":
        return "Copy or download the file again, or use the model's folder in safetensors format."
    if facts.source == "folder":
        return "Compare the folder with the one that it was copied from: a file is missing or damaged."
    if "safetensors" in str(error):
        return "It has pickled weights only: `allow_pickle: true` loads them, if you trust who made them."
    causes = (error, error.__cause__, error.__context__)
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return "Accept its terms on huggingface.co, then `hf auth login` or set `hf_hub_token`."
    if constants.HF_HUB_OFFLINE:
        return f"HF_HUB_OFFLINE is set: unset it, or fetch the model first: hf download {source.path}"
    if any(isinstance(cause, LocalEntryNotFoundError) for cause in causes):
        return f"The hub does not answer. Try again, or fetch it first: hf download {source.path}"
    return f"Is it spelled as on huggingface.co, and is revision {source.kwargs['revision']!r} there?"
