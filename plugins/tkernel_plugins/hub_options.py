"""How Hugging Face's hub is reached; the options of whatever fetches from it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HubOptions:
    """Shared by model and dataset plugins, so that one key serves both."""

    cache_dir: str | None = None
    """Where models and datasets of the hub are kept; None is Hugging Face's own cache (`HF_HOME`)."""
    hf_hub_token: str | None = None
    """Token for gated and private models and datasets; None takes the one of `hf auth login`, or `HF_TOKEN`."""
