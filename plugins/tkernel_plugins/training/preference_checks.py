"""What contradicts something else in the options of preference losses; no torch."""

from __future__ import annotations

from collections.abc import Iterator

from tkernel.config.suggest import did_you_mean
from tkernel.errors import Problem
from tkernel.references import is_reference
from tkernel.types.check import CheckRequest
from tkernel_plugins.training.preference_options import (
    LOSSES,
    REFERENCE_FREE,
    SMOOTHED,
    PreferenceOptions,
    ReferenceOptions,
)

OF_SIDES = ("rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected")
"""Metrics of both sides of a preference."""


def check_preference(request: CheckRequest) -> Iterator[Problem]:
    """Options of `dpo` that its loss does not read, or cannot do with."""
    options = request.options
    if not isinstance(options, PreferenceOptions):
        return
    loss = options.pref_loss
    if not is_reference(loss) and loss not in LOSSES:
        hint = did_you_mean(loss, LOSSES) or f"It takes {', '.join(LOSSES)}, or `./file.py:function`."
        yield Problem(f"there is no preference loss {loss!r}", key="pref_loss", hint=hint)
        return
    if not is_reference(loss):
        yield from _unread(options, loss)
    if loss == "exo_pair" and not options.dpo_label_smoothing:
        hint = "Add `dpo_label_smoothing: 0.001`, which is its epsilon."
        yield Problem(
            "`pref_loss: exo_pair` needs a label smoothing above 0", key="dpo_label_smoothing", hint=hint
        )
    yield from check_reference(request)


def _unread(options: PreferenceOptions, loss: str) -> Iterator[Problem]:
    leave = "Leave it out."
    if options.dpo_label_smoothing and loss not in SMOOTHED:
        message = f"`dpo_label_smoothing` is not part of `pref_loss: {loss}`"
        yield Problem(message, key="dpo_label_smoothing", hint=f"{leave} It is for {', '.join(SMOOTHED)}.")
    if loss not in REFERENCE_FREE:
        return
    for key, given in {
        "ref_model": options.ref_model is not None,
        "ref_model_adapters": options.ref_model_adapters is not None,
        "precompute_ref_log_probs": options.precompute_ref_log_probs,
        "pref_bco_weight": bool(options.pref_bco_weight),
    }.items():
        if given:
            yield Problem(
                f"`pref_loss: {loss}` has no reference, so `{key}` means nothing", key=key, hint=leave
            )
    if options.ld_alpha is not None:
        message = f"`pref_loss: {loss}` takes means over tokens, which `ld_alpha` does not weigh"
        yield Problem(message, key="ld_alpha", hint=leave)
    if options.pref_ftx and loss in ("orpo", "sft"):
        message = f"`pref_loss: {loss}` holds the next-token loss that `pref_ftx` would add again"
        yield Problem(message, key="pref_ftx", hint=leave)


def check_reference(request: CheckRequest) -> Iterator[Problem]:
    """Options of the reference."""
    options = request.options
    if not isinstance(options, ReferenceOptions):
        return
    if request.arguments.get("do_predict"):
        hint = "Use `do_eval: true`, or `stage: sft` with `predict_with_generate: true` for replies."
        yield Problem("this stage makes no predictions", key="do_predict", hint=hint)
    if options.ref_model_adapters is not None and options.ref_model is None:
        message = "`ref_model_adapters` are adapters on `ref_model`, which is not set"
        yield Problem(message, key="ref_model_adapters", hint="Add `ref_model: ...`, or leave it out.")
    if options.precompute_ref_log_probs and str(request.settings.get("streaming")).lower() in (
        "true",
        "yes",
        "on",
    ):
        message = "`precompute_ref_log_probs` needs all samples before step 1, and a stream has no end"
        yield Problem(message, key="precompute_ref_log_probs", hint="Leave it out, or leave out `streaming`.")
