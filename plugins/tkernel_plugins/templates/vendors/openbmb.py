"""Templates of OpenBMB's MiniCPM models."""

from __future__ import annotations

from dataclasses import replace

from tkernel_plugins.templates.forms import IM_TOOL_TURNS, IM_TURNS
from tkernel_plugins.templates.slots import BOS

CPM4 = replace(IM_TOOL_TURNS, name="cpm4", prefix=(BOS,))

MINICPM_V = replace(
    IM_TURNS, name="minicpm_v", default_system="You are a helpful assistant.", media="minicpm_v"
)

MINICPM_V_4_6 = replace(MINICPM_V, name="minicpm_v_4_6", media="minicpm_v_4_6")

MINICPM_O = replace(
    MINICPM_V,
    name="minicpm_o",
    default_system=(
        "You are a helpful assistant. You can accept audio and text input and output voice and text."
    ),
)
