"""Contract suites and fixtures for authors of plugins.

A plugin passes its contract with three lines in a test file::

    from tkernel.testing import TemplateContract

    class TestMine(TemplateContract):
        plugin = "mine"            # the entry point's name, or the plugin object itself

or with none: `tk plugins test template:mine`. The suites are imported when they are asked for, because
pytest loads this package in every environment.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tkernel.testing.adapters import AdapterContract
    from tkernel.testing.datasets import DatasetContract
    from tkernel.testing.engines import EngineContract
    from tkernel.testing.media import MediaContract
    from tkernel.testing.models import ModelContract
    from tkernel.testing.online import OnlineStageContract
    from tkernel.testing.preference_stages import FeedbackStageContract, PreferenceStageContract
    from tkernel.testing.stages import StageContract
    from tkernel.testing.templates import TemplateContract
    from tkernel.testing.text_stages import TextStageContract

__all__ = [
    "AdapterContract",
    "DatasetContract",
    "EngineContract",
    "FeedbackStageContract",
    "MediaContract",
    "ModelContract",
    "OnlineStageContract",
    "PreferenceStageContract",
    "StageContract",
    "TemplateContract",
    "TextStageContract",
]

CONTRACTS = {
    "model": "tkernel.testing.models:ModelContract",
    "adapter": "tkernel.testing.adapters:AdapterContract",
    "dataset": "tkernel.testing.datasets:DatasetContract",
    "template": "tkernel.testing.templates:TemplateContract",
    "media": "tkernel.testing.media:MediaContract",
    "stage": "tkernel.testing.stages:StageContract",
    "engine": "tkernel.testing.engines:EngineContract",
}
"""Kind of plugin -> where its suite is."""

STAGES_BY_ROWS = {
    "text": "tkernel.testing.text_stages:TextStageContract",
    "preference": "tkernel.testing.preference_stages:PreferenceStageContract",
    "feedback": "tkernel.testing.preference_stages:FeedbackStageContract",
    "prompt": "tkernel.testing.online:OnlineStageContract",
}
"""The suites of stages that learn from rows of another kind than `supervised`."""


def __getattr__(name: str) -> Any:
    for target in (*CONTRACTS.values(), *STAGES_BY_ROWS.values()):
        module, _, attribute = target.partition(":")
        if attribute == name:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
