"""What a model is, known without loading it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class ModelFacts:
    """Read from `config.json` or from the header of a GGUF file by `tkernel.facts`.

    `config` is the content of `config.json`; for a GGUF file it is written with the same keys
    (`model_type`, `hidden_size`, `vocab_size`, `num_hidden_layers`), so that no reader needs to
    know which it was. `metadata` are a GGUF file's own keys, without its large arrays.
    """

    name: str
    """`model_name_or_path` as the user wrote it."""
    source: Literal["folder", "gguf", "hub", "memory"]
    location: str | None
    """The local folder or file; None for a hub id that is not in the cache, and in memory."""
    model_type: str
    """transformers' name of the architecture, the name of the model plugin that is matched."""
    architectures: tuple[str, ...] = ()
    chat_template: str | None = field(default=None, repr=False)
    """The Jinja chat template that comes with the model, if any."""
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
    content_hash: str | None = None
    """Over names, sizes and contents of what defines the model; goes into the lock."""

    @property
    def is_multimodal(self) -> bool:
        """The config has a vision or an audio part."""
        return any(key in self.config for key in ("vision_config", "audio_config"))

    @property
    def remote_code(self) -> bool:
        """The model brings Python code of its own (`auto_map`)."""
        return bool(self.config.get("auto_map"))
