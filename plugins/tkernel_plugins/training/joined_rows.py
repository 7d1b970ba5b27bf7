"""Whether a model gives the same log-probabilities for sequences that share a row, found out by asking it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainingArguments

from tkernel_plugins.data.padding import IGNORED
from tkernel_plugins.training.fused import attention, branches
from tkernel_plugins.training.part_collator import PAIR, PartCollator
from tkernel_plugins.training.separation import ROUNDING, TEXTS, carries_state
from tkernel_plugins.training.sequence_rows import joined
from tkernel_plugins.training.token_logps import TokenScorer
from tkernel_plugins.training.value_head import base_of


def scorer_of(module: Any, args: TrainingArguments) -> TokenScorer:
    """The scorer of a model; its parts are left alone where they are spread over processes or compiled."""
    scorer = TokenScorer(module)
    if args.fsdp or args.deepspeed or args.torch_compile:
        scorer.split = None
    return scorer


def join_rows(
    module: Any, scorer: TokenScorer, tokenizer: Any, args: TrainingArguments, longest: int
) -> bool:
    """Let `module` attend by `branches` if it then gives the log-probabilities that it gives without.

    Args:
        scorer: that of `module`.
        tokenizer: makes the ids of the trial.
        longest: most tokens of a sequence.

    Returns False, and leaves the model as it is, where it cannot or where noise is scaled by the length of rows
    (NEFTune).
    """
    part_rows(module)  # a copy of a model that attends so already
    base = base_of(module)
    config = base.config.get_text_config()
    fits = scorer.split is not None and attention.applies_to(config, longest) and not carries_state(module)
    if not fits or args.neftune_noise_alpha:
        return False
    samples = _samples(tokenizer)
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            expected = _logps(module, scorer, samples, joint=False)
            branches.register()
            base.set_attn_implementation(branches.NAME)
            found = _logps(module, scorer, samples, joint=True)
    except (TypeError, ValueError, RuntimeError):  # code that knows no such attention fails in its own way
        base.set_attn_implementation("sdpa")
        return False
    finally:
        for part, training in modes.items():
            part.training = training
    tolerance = ROUNDING.get(next(base.parameters()).dtype, (1e-2, 5e-2))[1]
    same = bool((found - expected).abs().max() <= tolerance * expected.abs().max())
    if not same:
        base.set_attn_implementation("sdpa")
    return same


def part_rows(module: Any) -> None:
    """The model attends as before `join_rows`."""
    base = base_of(module)
    if base.config.get_text_config()._attn_implementation == branches.NAME:
        base.set_attn_implementation("sdpa")


def _samples(tokenizer: Any) -> list[dict[str, list[int]]]:
    """Two pairs, with other prompts."""
    first, second = (tokenizer.encode(text, add_special_tokens=False)[:16] for text in TEXTS)
    samples = []
    for prompt, reply in ((first, second), (second, first)):
        sample = {}
        for name, own in zip(PAIR, (reply, reply[::-1]), strict=True):
            sample[f"{name}input_ids"] = prompt + own
            sample[f"{name}labels"] = [IGNORED] * len(prompt) + own
        samples.append(sample)
    return samples


def _logps(module: Any, scorer: TokenScorer, samples: list[Any], *, joint: bool) -> torch.Tensor:
    """Of every learned token, sample by sample."""
    device = next(module.parameters()).device
    parts = PartCollator(lambda given: {}, PAIR, 0, joined=joint)(samples)["parts"]
    if joint:
        row = {n: v.to(device) if torch.is_tensor(v) else v for n, v in joined(parts).items()}
        return scorer.row(module, row).values
    on_device = [{name: tensor.to(device) for name, tensor in part.items()} for part in parts]
    return torch.cat([scorer.padded(module, part).values for part in on_device])
