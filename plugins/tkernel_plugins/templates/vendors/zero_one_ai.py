"""Templates of 01.AI's Yi models."""

from __future__ import annotations

from dataclasses import replace

from tkernel_plugins.templates.forms import IM_TURNS
from tkernel_plugins.templates.template import Template

YI = replace(IM_TURNS, name="yi")

YI_VL = Template(
    name="yi_vl",
    user=("### Human: {{content}}\n### Assistant:",),
    assistant=("{{content}}\n",),
    default_system=(
        "This is a chat between an inquisitive human and an AI assistant. Assume the role of the AI assistant. "
        "Read all the images carefully, and respond to the human's questions with informative, helpful, detailed "
        "and polite answers. 这是一个好奇的人类和一个人工智能助手之间的对话。假设你扮演这个AI助手的角色。"
        "仔细阅读所有的图像，并对人类的问题做出信息丰富、有帮助、详细的和礼貌的回答。\n\n"
    ),
    stop_words=("###",),
    efficient_eos=True,
    media="llava",
)
