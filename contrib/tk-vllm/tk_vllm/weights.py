"""What vLLM is given to load: a folder or a hub id, and at most one adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tkernel.errors import TkError
from tkernel.types.requests import EngineRequest

EXPORT = "Merge it first, and serve the result: tk export FILE export_dir=DIR"


@dataclass(frozen=True)
class Weights:
    """Where the model is, and the adapter on it."""

    model: str
    adapter: str | None = None


def weights_of(request: EngineRequest, scratch: Path) -> Weights:
    """The model and the adapter of a request; a module in memory is written into `scratch`.

    Raises:
        TkError: a GGUF file, several adapters, or an adapter that vLLM cannot load.
    """
    facts, bundle = request.facts, request.bundle
    assert facts is not None
    module = bundle.module if bundle is not None else None
    if module is not None and not hasattr(module, "peft_config"):
        assert bundle is not None
        module.save_pretrained(scratch / "model")
        bundle.tokenizer.save_pretrained(scratch / "model")
        return Weights(str(scratch / "model"))
    if facts.source not in ("folder", "hub"):
        raise TkError(f"vLLM does not load {facts.name} ({facts.source})", hint=EXPORT)
    if request.renderer is not None and request.renderer.added_tokens:
        tokens = ", ".join(request.renderer.added_tokens[:4])
        raise TkError(f"the template adds tokens to the model's vocabulary: {tokens}", hint=EXPORT)
    model = str(facts.location or facts.name)
    if module is not None:
        module.save_pretrained(scratch / "adapter")
        return Weights(model, _checked(str(scratch / "adapter")))
    if len(request.adapters) > 1:
        raise TkError(f"vLLM takes one adapter at a time, not {len(request.adapters)}", hint=EXPORT)
    return Weights(model, _checked(request.adapters[0]) if request.adapters else None)


def _checked(folder: str) -> str:
    """An adapter's folder, if vLLM can load it."""
    path = Path(folder).expanduser()
    config: Mapping[str, Any] = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
    for name in ("modules_to_save", "trainable_token_indices", "use_dora"):
        if config.get(name):
            raise TkError(f"adapter {folder} has `{name}`, which vLLM does not load", hint=EXPORT)
    return str(path)
