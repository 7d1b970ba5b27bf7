"""Models for sequence classification with one label, which are reward models. Not a plugin; a library of this folder."""

from __future__ import annotations

from typing import Any

from tkernel.errors import TkError
from tkernel.types.facts import ModelFacts
from tkernel.types.requests import ModelRequest

_SUFFIX = "ForSequenceClassification"


def is_classifier(facts: ModelFacts) -> bool:
    """Whether the checkpoint has a head for classes in place of the output layer for tokens."""
    return any(name.endswith(_SUFFIX) for name in facts.architectures)


def load_classifier(request: ModelRequest, path: str, config: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """The causal language model with the classifier's layers and head, `model.score`, and what was missing.

    Where input and output embeddings are not tied the output layer is zeros: such a model scores and does not talk.

    Raises:
        TkError: a run that would have it talk, several labels, or a family that is built otherwise.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    from tkernel_plugins.training.value_head import SCORE, ScoreHead

    name = request.facts.name
    if request.role != "reward" and request.settings.get("stage") != "rm":
        raise TkError(
            f"{name} is a model for classification, which scores replies and writes none",
            hint="Use it with `stage: rm`.",
        )
    if config.num_labels != 1:
        raise TkError(f"{name} has {config.num_labels} labels; a reward model has one")
    classifier, report = AutoModelForSequenceClassification.from_pretrained(path, config=config, **kwargs)
    body = classifier.base_model_prefix
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config)
    if not (hasattr(classifier, SCORE) and hasattr(classifier, body) and hasattr(module, body)):
        raise TkError(f"{type(classifier).__name__} is built otherwise than {type(module).__name__}")
    setattr(module, body, getattr(classifier, body))
    output = module.get_output_embeddings().to_empty(device=classifier.device)
    torch.nn.init.zeros_(output.weight)
    module.set_output_embeddings(output.to(classifier.dtype))
    module.tie_weights()
    head = ScoreHead(classifier.score.in_features)
    head.load_state_dict({"weight": classifier.score.weight.detach().float()})
    module.score = head.to(classifier.device)
    return module, report
