"""The template of China Telecom's TeleChat 2."""

from __future__ import annotations

from tkernel_plugins.templates.template import Template

TELECHAT2 = Template(
    name="telechat2",
    user=("<_user>{{content}}<_bot>",),
    system=("<_system>{{content}}",),
    default_system=(
        "你是中国电信星辰语义大模型，英文名是TeleChat，你是由中电信人工智能科技有限公司和中国电信人工智能研究院（TeleAI）"
        "研发的人工智能助手。"
    ),
)
