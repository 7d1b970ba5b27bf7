"""What is wrong with a run that learns from its own completions, told while it is planned."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tkernel.errors import Problem, TkError
from tkernel.other_models import is_adapter
from tkernel.references import find_function, is_reference
from tkernel.types.check import CheckRequest
from tkernel_plugins.training.checks import check_training

PER_DEVICE = 8
"""transformers' default of `per_device_train_batch_size`."""


def check_online(request: CheckRequest) -> Iterator[Problem]:
    """What every such stage refuses, and what is wrong with the training arguments."""
    yield from check_training(request)
    options, arguments = request.options, request.arguments
    if str(request.settings.get("streaming")).lower() in ("true", "yes", "on"):
        message = "`streaming` reads rows without end, and rollouts go through all prompts in a random order"
        yield Problem(message, key="streaming", hint="Leave it out: prompts alone are small.")
    strategy = arguments.get("train_sampling_strategy", "random")
    if strategy not in ("random", "sequential"):
        message = f"`train_sampling_strategy: {strategy}` sorts samples, and this stage makes its own"
        yield Problem(message, key="train_sampling_strategy", hint="Leave it out.")
    for key, why in (
        ("label_smoothing_factor", "is for labels, and completions have none"),
        ("auto_find_batch_size", "changes the batch, and a rollout is made for the batch"),
    ):
        if arguments.get(key):
            yield Problem(f"`{key}` {why}", key=key, hint="Leave it out.")
    if options is None:
        return
    if options.compute_accuracy:
        message = (
            "`compute_accuracy` counts right predictions of given replies, and here the model makes them"
        )
        yield Problem(message, key="compute_accuracy", hint="Leave it out.")
    if not options.do_sample:
        message = "`do_sample: false` gives the same completion every time, and nothing could be learned"
        yield Problem(message, key="do_sample", hint="Leave it out.")
    if options.num_beams > 1:
        message = "`num_beams` searches, and this stage learns from what is drawn"
        yield Problem(message, key="num_beams", hint="Leave it out.")
    if options.temperature == 0:
        message = "`temperature: 0` gives the same completion every time, and nothing could be learned"
        yield Problem(message, key="temperature", hint="Take 1.0, or leave it out.")


def check_group(request: CheckRequest) -> Iterator[Problem]:
    """What `grpo` and `rloo` refuse beside that."""
    yield from check_online(request)
    options, arguments = request.options, request.arguments
    if options is None:
        return
    if "max_new_tokens" in request.settings:
        message = "the longest completion is `max_completion_length` in this stage, not `max_new_tokens`"
        yield Problem(message, key="max_new_tokens", hint="Rename it.")
    yield from check_rewards(request)
    accumulated = arguments.get("gradient_accumulation_steps", 1)
    steps = options.steps_per_generation or accumulated
    if steps % accumulated:
        yield Problem(
            f"`steps_per_generation: {steps}` must be a multiple of `gradient_accumulation_steps` ({accumulated})",
            key="steps_per_generation",
            hint=f"Take {accumulated * max(1, round(steps / accumulated))}.",
        )
    batch = arguments.get("per_device_train_batch_size", PER_DEVICE)
    if batch * steps % options.num_generations:
        yield Problem(
            f"`num_generations: {options.num_generations}` does not divide the {batch * steps} completions of a "
            f"rollout on one device (per_device_train_batch_size {batch} x {steps} micro-batches)",
            key="num_generations",
            hint=f"Set `per_device_train_batch_size: {options.num_generations}`, or another number that it divides.",
        )
    if not options.beta and (options.ref_model or options.ref_model_adapters):
        key = "ref_model" if options.ref_model else "ref_model_adapters"
        message = f"`{key}` is what `beta` holds the policy to, and `beta` is 0"
        yield Problem(message, key=key, hint="Add `beta: 0.04`, or leave it out.")


def check_rewards(request: CheckRequest) -> Iterator[Problem]:
    """Who judges: at least one, all of them functions or models, as many weights as judges."""
    options = request.options
    if not options.reward_funcs and not options.reward_model:
        yield Problem(
            "nothing rewards the completions",
            key="reward_funcs",
            hint="Add `reward_funcs: [./rewards.py:my_reward]`, or `reward_model: PATH`.",
        )
    for text in options.reward_funcs:
        if not is_reference(text):
            hint = "Write `./rewards.py:function` or `package.module:function`."
            yield Problem(f"`{text}` in `reward_funcs` names no function", key="reward_funcs", hint=hint)
        elif _is_value(text):
            message = f"`{text}` in `reward_funcs` is a value, not a function"
            yield Problem(message, key="reward_funcs", hint="Name a function of prompts and completions.")
    judges = len(options.reward_funcs) + bool(options.reward_model)
    if options.reward_weights is not None and len(options.reward_weights) != judges:
        message = f"`reward_weights` has {len(options.reward_weights)} weights for {judges} judges"
        hint = "One for each of `reward_funcs`, and one more for `reward_model` if there is one."
        yield Problem(message, key="reward_weights", hint=hint)
    if options.reward_model:
        yield from _value_head(request)
    if options.reward_model_adapters and not options.reward_model:
        message = "`reward_model_adapters` are adapters of `reward_model`, which is not set"
        yield Problem(message, key="reward_model_adapters", hint="Add `reward_model: PATH`.")


def _value_head(request: CheckRequest) -> Iterator[Problem]:
    """Whether a reward model in a folder has a value head there or with its adapters."""
    name, adapters = request.options.reward_model, request.options.reward_model_adapters
    folders = [Path(place).expanduser() for place in (name, *adapters)]
    heads = ("value_head.safetensors", "value_head.bin")
    if folders[0].is_dir() and not any((place / head).is_file() for place in folders for head in heads):
        message = f"`reward_model: {name}` has no value_head.safetensors, so it is no reward model"
        hint = "Train one with `stage: rm`, or name the folder of one."
        yield Problem(message, key="reward_model", hint=hint)


def _is_value(text: str) -> bool:
    """Whether the source gives the name a plain value: a number, a text, a list."""
    name = text.rpartition(":")[2]
    try:
        tree = ast.parse(find_function(text).read_bytes())
    except (TkError, SyntaxError, OSError):
        return False  # told by who bound it
    plain = ast.Constant | ast.List | ast.Tuple | ast.Dict | ast.Set | ast.JoinedStr
    return any(
        isinstance(node, ast.Assign)
        and isinstance(node.value, plain)
        and any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
        for node in tree.body
    )


def check_ppo(request: CheckRequest) -> Iterator[Problem]:
    """What `ppo` refuses beside what every online stage does."""
    yield from check_online(request)
    options = request.options
    if options is None:
        return
    name, kind = options.reward_model, options.reward_model_type
    if not name:
        hint = "Add `reward_model: PATH`, the result of `stage: rm`."
        yield Problem("`stage: ppo` needs a reward model", key="reward_model", hint=hint)
        return
    is_url = name.startswith(("http://", "https://"))
    folder = Path(name).expanduser()
    adapter = request.coming.get(name, False) or is_adapter(name)
    if kind == "api" and not is_url:
        message = f"`reward_model_type: api` wants an URL as `reward_model`, not {name}"
        yield Problem(message, key="reward_model", hint="Write `reward_model: http://HOST:PORT/...`.")
    elif kind != "api" and is_url:
        message = f"`reward_model: {name}` is an URL, and `reward_model_type` is `{kind}`"
        yield Problem(message, key="reward_model_type", hint="Write `reward_model_type: api`.")
    elif kind == "lora" and (folder.is_dir() or name in request.coming) and not adapter:
        message = f"`reward_model: {name}` holds no adapter, and `reward_model_type` is `lora`"
        yield Problem(message, key="reward_model_type", hint="Write `reward_model_type: full`.")
    elif kind == "full" and adapter:
        message = f"`reward_model: {name}` holds an adapter, and `reward_model_type` is `full`"
        yield Problem(message, key="reward_model_type", hint="Write `reward_model_type: lora`.")
    yield from _value_head(request)
    if kind == "api" and options.reward_model_adapters:
        message = "`reward_model_adapters` are of no use to a reward model behind an URL"
        yield Problem(message, key="reward_model_adapters", hint="Leave it out.")
    if options.ppo_kl_coef == 0 and "ppo_target" in request.settings:
        message = "`ppo_target` steers the weight of the KL penalty, and `ppo_kl_coef: 0` leaves it at 0"
        yield Problem(message, key="ppo_target", hint="Leave one of the two out.")
