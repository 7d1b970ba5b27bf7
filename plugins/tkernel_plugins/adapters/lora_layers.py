"""Injecting and loading LoRA. Not a plugin; the library of `lora`.

Importing peft costs 0.2 CPU seconds once transformers' models are imported; most of the 5 seconds that it
takes alone are theirs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer

from tkernel import ModelBundle
from tkernel.errors import TkError
from tkernel.types.requests import AdapterRequest
from tkernel_plugins.adapters.adapter_config import contradiction, contradictions
from tkernel_plugins.adapters.adapter_folder import (
    AdapterFolder,
    check_layers,
    check_names,
    check_tokens,
    read_adapter,
)
from tkernel_plugins.adapters.options import names_of
from tkernel_plugins.adapters.parts import linear_layers, matches, no_match, parts_of, short_name, under
from tkernel_plugins.adapters.precision import print_parameters, settle_precision

if TYPE_CHECKING:
    from tkernel_plugins.adapters.lora import LoraOptions


def wrap_module(module: Any, config: LoraConfig, seed: int) -> PeftModel:
    """The module with a new adapter, whose first values `seed` alone decides."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(module, config)


def adapt(
    bundle: ModelBundle,
    request: AdapterRequest,
    options: LoraOptions,
    wrap: Callable[[Any, LoraConfig, int], PeftModel] = wrap_module,
) -> ModelBundle:
    """Merge, resume or inject; see `lora.Lora`. `wrap` is what injects, for who does it in another way."""
    module = bundle.module
    folders = [read_adapter(name, request.settings) for name in request.adapters]
    for folder in folders:
        check_names(folder, bundle.tokenizer)
    resumes = request.trainable and not options.create_new_adapter
    to_merge, resumed = (folders[:-1], folders[-1:]) if resumes else (folders, [])
    for folder in to_merge:
        module = _load(module, folder, bundle, trainable=False).merge_and_unload()
    if not request.trainable:
        module.requires_grad_(False)
        return bundle.replace(module=module.eval())
    if resumed:
        _check_same(resumed[0], module, bundle.facts.name, request, options)
        kept = tuple(resumed[0].config.get("modules_to_save") or ())
        check_tokens(resumed[0], _new_tokens(module, bundle, request, kept) or {}, bundle.tokenizer)
        module = _load(module, resumed[0], bundle, trainable=True)
    else:
        module = wrap(module, _new_config(module, bundle, request, options), request.seed)
    settle_precision(module, request.arguments, options)
    if options.print_param_status:
        print_parameters(module)
    return bundle.replace(module=module.train())


def _new_config(
    module: Any, bundle: ModelBundle, request: AdapterRequest, options: LoraOptions
) -> LoraConfig:
    if any(isinstance(child, BaseTunerLayer) for child in module.modules()):
        raise TkError(
            f"{bundle.facts.name} has the adapter of an earlier run in it, and a new one would adapt that one",
            hint="Give a model without adapter: load it again, or merge with `model.merge_and_unload()`.",
        )
    parts = parts_of(module)
    outside = parts.frozen(options)
    targets = _targets(module, bundle.facts.name, request.lora_targets, options, outside)
    saved = _without_tied(module, _additional(module, bundle.facts.name, options))
    if parts.language and not options.freeze_multi_modal_projector:
        saved += parts.projectors
    module.requires_grad_(False)
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=options.lora_rank,
        lora_alpha=2 * options.lora_rank if options.lora_alpha is None else options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules=list(targets),
        exclude_modules=_exclusion(module, targets, outside),
        modules_to_save=list(saved) or None,
        trainable_token_indices=_new_tokens(module, bundle, request, saved),
        ensure_weight_tying=_is_tied(module) and bool(saved),
        use_rslora=options.use_rslora,
        use_dora=options.use_dora,
    )


def _targets(
    module: Any, model: str, family: tuple[str, ...], options: LoraOptions, outside: tuple[str, ...]
) -> tuple[str, ...]:
    """Short names of the layers to adapt, each of which matches at least one."""
    candidates = tuple(linear_layers(module, outside))
    names = names_of(options.lora_target)
    if "all" not in names:
        ends = (module.get_input_embeddings(), module.get_output_embeddings())
        possible = (*candidates, *(n for n, child in module.named_modules() if any(child is e for e in ends)))
        for target in names:
            if not any(matches(name, target) for name in possible):
                raise no_match("lora_target", target, possible, model)
        return names
    everything = tuple(dict.fromkeys(short_name(name) for name in candidates))
    known = tuple(t for t in family if any(matches(name, t) for name in candidates))
    if not (known or everything):
        raise no_match("lora_target", "all", candidates, model)
    return known or everything


def _exclusion(module: Any, targets: tuple[str, ...], outside: tuple[str, ...]) -> str | None:
    """A pattern for modules that bear a target's name and lie in a frozen part of a multimodal model."""
    hit = [
        prefix
        for prefix in outside
        if any(
            under(name, (prefix,)) and any(matches(name, t) for t in targets)
            for name, _ in module.named_modules()
        )
    ]
    return rf"(?:.*\.)?(?:{'|'.join(map(re.escape, hit))})\..*" if hit else None


def _additional(module: Any, model: str, options: LoraOptions) -> tuple[str, ...]:
    names = names_of(options.additional_target)
    modules = tuple(
        name for name, child in module.named_modules() if name and any(True for _ in child.parameters())
    )
    for target in names:
        if not any(matches(name, target) for name in modules):
            raise no_match("additional_target", target, modules, model)
    return names


def _new_tokens(
    module: Any, bundle: ModelBundle, request: AdapterRequest, saved: tuple[str, ...]
) -> dict[str, list[int]] | None:
    """Rows of the embeddings to train, by module name: both embeddings, unless they are saved whole or tied."""
    ids = sorted({*request.new_tokens, *bundle.new_tokens})
    if not ids:
        return None
    ends = [module.get_input_embeddings()]
    if not _is_tied(module):
        ends.append(module.get_output_embeddings())
    names = [name for name, child in module.named_modules() if any(child is end for end in ends)]
    names = [name for name in names if not any(matches(name, target) for target in saved)]
    return dict.fromkeys(names, ids) or None


def _without_tied(module: Any, saved: tuple[str, ...]) -> tuple[str, ...]:
    """Without the output layer if it is the embedding, which is there too: PEFT 0.18 would make two of them, and later
    ones leave it out themselves."""
    if not _is_tied(module):
        return saved
    names = {id(child): name for name, child in module.named_modules()}
    ends = (names[id(end)] for end in (module.get_input_embeddings(), module.get_output_embeddings()))
    inner, head = ([target for target in saved if matches(name, target)] for name in ends)
    return tuple(target for target in saved if target not in head) if inner else saved


def _is_tied(module: Any) -> bool:
    head = module.get_output_embeddings()
    return head is not None and head.weight is module.get_input_embeddings().weight


def _load(module: Any, folder: AdapterFolder, bundle: ModelBundle, *, trainable: bool) -> Any:
    check_layers(folder, module, bundle.facts.name)
    try:
        return PeftModel.from_pretrained(module, folder.path, is_trainable=trainable)
    except (RuntimeError, ValueError, OSError) as error:
        raise TkError(
            f"adapter {folder.path} does not fit {bundle.facts.name}: {str(error).strip().splitlines()[0]}",
            hint=f"It was made for {folder.config.get('base_model_name_or_path') or 'another model'}.",
        ) from error


def _check_same(
    folder: AdapterFolder, module: Any, model: str, request: AdapterRequest, options: LoraOptions
) -> None:
    """Options that were set and differ from the adapter that is trained further cannot take effect."""
    for _, message, hint in contradictions(folder.path, folder.config, options, request.settings):
        raise TkError(message, hint=hint)
    wanted, saved = names_of(options.additional_target), names_of(folder.config.get("modules_to_save"))
    parts = [name for name, _ in module.named_modules()]
    if wanted and _matched(parts, _without_tied(module, wanted)) != _matched(parts, saved):
        message, hint = contradiction(folder.path, "additional_target", ",".join(wanted), ",".join(saved))
        raise TkError(message, hint=hint)
    had = folder.config.get("target_modules")
    if "lora_target" in request.settings and "all" in names_of(options.lora_target):
        outside = parts_of(module).frozen(options)
        layers = tuple(linear_layers(module, outside))
        every = _targets(module, model, request.lora_targets, options, outside)
        if _matched(layers, had) != _matched(layers, every):
            message, hint = contradiction(folder.path, "lora_target", "all", had)
            raise TkError(message, hint=hint)


def _matched(layers: Sequence[str], targets: str | Sequence[str] | None) -> set[str]:
    """The layers that PEFT adapts for `targets`, names or a pattern."""
    if isinstance(targets, str):
        return {name for name in layers if re.fullmatch(targets, name)}
    return {name for name in layers if any(matches(name, target) for target in targets or ())}
