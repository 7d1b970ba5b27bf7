"""Templates of the Shanghai AI Laboratory's InternLM and InternVL models."""

from __future__ import annotations

from dataclasses import replace

from tkernel_plugins.templates.forms import IM_TURNS
from tkernel_plugins.templates.slots import BOS

_TURNS = replace(IM_TURNS, prefix=(BOS,))

INTERN2 = replace(
    _TURNS,
    name="intern2",
    default_system=(
        "You are an AI assistant whose name is InternLM (书生·浦语).\n"
        "- InternLM (书生·浦语) is a conversational language model that is developed by Shanghai AI Laboratory "
        "(上海人工智能实验室). It is designed to be helpful, honest, and harmless.\n"
        "- InternLM (书生·浦语) can understand and communicate fluently in the language chosen by the user such "
        "as English and 中文."
    ),
)

INTERN_S1 = replace(_TURNS, name="intern_s1", media="intern_vl")

INTERN_VL = replace(
    _TURNS,
    name="intern_vl",
    default_system=(
        "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
    ),
    media="intern_vl",
)
