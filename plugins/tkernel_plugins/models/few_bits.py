"""Checkpoints in the layouts of GPTQ, AWQ and AutoRound: which library reads them. Not a plugin; a library of this folder."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Any

from tkernel.errors import MissingRequirement

METHODS = ("gptq", "awq", "auto-round")
UNUSED = ".g_idx"
"""End of the names of GPTQ's weights that say the order of the inputs; in order, as exports are, none needs them."""


def few_bits_arguments(config: Any, name: str) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained` that a checkpoint of such a layout needs; none for another one.

    gptqmodel reads them where it is installed, as transformers has it, else auto-round.

    Raises:
        MissingRequirement: neither is installed.
    """
    given = getattr(config, "quantization_config", None) or {}
    method = given.get("quant_method") if isinstance(given, dict) else getattr(given, "quant_method", None)
    if method not in METHODS or (method != "auto-round" and find_spec("gptqmodel") is not None):
        return {}
    needs = ("auto_round", "auto_round_kernel") if method == "awq" else ("auto_round",)
    missing = [module for module in needs if find_spec(module) is None]
    if missing:
        raise MissingRequirement(
            f"{name} is quantised ({method}), and {' and '.join(missing)} is not installed",
            hint="pip install 'tkernel[quantize]'",
        )
    import auto_round.logger  # noqa: F401
    from transformers import AutoRoundConfig

    logging.getLogger("autoround").setLevel(logging.ERROR)
    return {} if method == "auto-round" else {"quantization_config": AutoRoundConfig()}
