"""A reward model as transformers' model for sequence classification with one label, on disk.

In training the head stands on the causal language model whose layers it scores, as `model.score`. What is saved
is what `AutoModelForSequenceClassification` loads: a whole model without the output layer for tokens, or a PEFT
adapter of the task `SEQ_CLS` that holds the head.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tkernel.errors import TkError
from tkernel_plugins.training.value_head import SCORE, Head, ScoreHead, attach, base_of, detach, head_of

KEY = f"{SCORE}.weight"
IN_ADAPTER = f"base_model.model.{KEY}"
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"


def classifier_of(model: Any, pad_token_id: int | None) -> Any:
    """The model for classification with the layers and the score head of `model`; no weights are copied.

    Raises:
        TkError: transformers has none for this family, or one that is built otherwise.
    """
    from transformers import AutoModelForSequenceClassification

    base = base_of(model)
    config = copy.deepcopy(base.config)
    config.num_labels = 1
    config.get_text_config().pad_token_id = config.pad_token_id = pad_token_id
    name = type(base).__name__
    try:
        with torch.device("meta"):
            classifier = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise TkError(f"transformers has no model for classification with the layers of {name}") from error
    wanted = classifier.state_dict().keys()
    plain = {key.replace(".base_layer.", "."): key for key in base.state_dict()}
    if not wanted <= plain.keys() | {KEY}:
        raise TkError(
            f"{type(classifier).__name__} is built otherwise than {name}, so its head cannot be trained on it",
            hint="Use `reward_head: value`.",
        )
    return classifier


def padding_of(tokenizer: Any, stop_ids: Sequence[int]) -> int:
    """The padding token of a model for classification, which scores the last token that is another one.

    That of the tokenizer, unless replies end with it; then its unknown or first token, which no reply ends with.

    Raises:
        TkError: there is none.
    """
    ends = {tokenizer.eos_token_id, *stop_ids}
    for name in ("pad_token_id", "unk_token_id", "bos_token_id"):
        found = getattr(tokenizer, name)
        if found is not None and found not in ends:
            return int(found)
    raise TkError(
        "the tokenizer has no padding token but those that replies end with, so their scores could not be found",
        hint="Use `reward_head: value`.",
    )


def save_whole(
    model: Any, folder: str | Path, pad_token_id: int | None, max_shard_size: str = "50GB"
) -> None:
    """Write `model` with its score head as a model for classification."""
    classifier = classifier_of(model, pad_token_id)
    own = base_of(model).state_dict()
    classifier.load_state_dict({key: own[key] for key in classifier.state_dict()}, assign=True)
    classifier.save_pretrained(folder, max_shard_size=max_shard_size)


def complete_adapter(model: Any, folder: str | Path) -> None:
    """Put the head of `model` into the adapter that was just saved in `folder`."""
    from safetensors.torch import load_file, save_file

    head = head_of(model)
    assert isinstance(head, ScoreHead)
    path = Path(folder) / ADAPTER
    tensors = load_file(path) | {IN_ADAPTER: head.weight.detach().cpu().contiguous()}
    save_file(tensors, path, metadata={"format": "pt"})
    path = Path(folder) / ADAPTER_CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    config["task_type"] = "SEQ_CLS"
    config["modules_to_save"] = sorted({*(config.get("modules_to_save") or ()), SCORE})
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def saved_score(folder: str | Path) -> torch.Tensor | None:
    """The weight of the score head in a folder of a model or adapter, (1, width); None if there is none."""
    from safetensors import safe_open

    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in {KEY, IN_ADAPTER} & set(file.keys()):
                found: torch.Tensor = file.get_tensor(key)
                return found
    return None


def load(model: Any, folder: str | Path) -> Head:
    """Attach the score head in `folder` to `model`, whose own is overwritten, and return it.

    Raises:
        TkError: there is none in `folder`, it has several labels, or it was made for another width.
    """
    weight = saved_score(folder)
    if weight is None:
        raise TkError(f"there is no {KEY} in {folder}", hint="Name a reward model's folder.")
    if not isinstance(head_of(model), ScoreHead):
        detach(model)
    head = attach(model, seed=0, kind=ScoreHead)
    assert isinstance(head, ScoreHead)
    if weight.shape != head.weight.shape:
        raise TkError(
            f"the score head in {folder} is {tuple(weight.shape)}, and the model needs {tuple(head.weight.shape)}",
            hint="Name a model with one label, trained on this base.",
        )
    head.load_state_dict({"weight": weight.to(head.weight)})
    return head
