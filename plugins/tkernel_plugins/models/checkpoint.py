"""What may be loaded, checked before torch is imported. Not a plugin; a library of this folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tkernel.errors import TkError
from tkernel.types.facts import ModelFacts
from tkernel_plugins.models.options import ModelOptions

logger = logging.getLogger(__name__)

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class Source:
    """What `from_pretrained` is given: a folder or hub id, and keyword arguments that go with it."""

    path: str
    kwargs: dict[str, Any]


def source_of(facts: ModelFacts, options: ModelOptions, weights: bool = True) -> Source:
    """The folder or hub id of `facts`; without `weights` a folder need not have any.

    Raises:
        TkError: nothing to load from, weights missing, or only pickled ones without `allow_pickle`.
    """
    if facts.source == "memory" or (facts.source != "hub" and facts.location is None):
        raise TkError(f"{facts.name} is in memory and cannot be loaded again: name a folder or a hub id")
    if facts.source == "hub":
        kwargs = {
            "revision": options.model_revision,
            "cache_dir": options.cache_dir,
            "token": options.hf_hub_token,
            "trust_remote_code": options.trust_remote_code,
        }
        return Source(facts.name, kwargs)
    path = Path(str(facts.location))
    if weights and facts.source == "folder" and not options.train_from_scratch:
        _check_weights(path, options)
    return Source(str(path), {"trust_remote_code": options.trust_remote_code})


def check_remote_code(facts: ModelFacts, options: ModelOptions, native: bool) -> None:
    """Refuse a model whose Python code would be needed and may not be run.

    Args:
        facts: of the model.
        options: of the model plugin.
        native: transformers implements `facts.model_type` itself.
    """
    if not facts.remote_code or options.trust_remote_code:
        return
    if native:
        logger.info("%s brings code of its own; transformers' %s is used", facts.name, facts.model_type)
        return
    raise TkError(
        f"{facts.name} is of type {facts.model_type!r}, which transformers does not implement: it brings Python "
        f"code of its own ({', '.join(sorted(map(str, facts.config['auto_map'])))}), which is not run unasked",
        hint="Read that code, then set `trust_remote_code: true`.",
    )


def _check_weights(folder: Path, options: ModelOptions) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles and not options.allow_pickle:
        raise TkError(
            f"{folder} has its weights only as {pickles[0]}, a pickle: opening one can run any code",
            hint="Use a safetensors version of the model, or set `allow_pickle: true` if you trust the file.",
        )
    if not pickles:
        adapter = (folder / "adapter_config.json").exists()
        raise TkError(
            f"{folder} holds no weights (no *.safetensors)",
            hint="It is an adapter: name it in `adapter_name_or_path` and the base in `model_name_or_path`."
            if adapter
            else "Copy the weights there, or set `train_from_scratch: true` for random ones.",
        )
