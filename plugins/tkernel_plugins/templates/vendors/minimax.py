"""Templates of MiniMax's models."""

from __future__ import annotations

from tkernel_plugins.templates.template import Template

_REPLY = "<end_of_sentence>\n<beginning_of_sentence>ai name=assistant\n"
MINIMAX1 = Template(
    name="minimax1",
    user=("<beginning_of_sentence>user name=user\n{{content}}" + _REPLY,),
    assistant=("{{content}}<end_of_sentence>\n",),
    system=("<beginning_of_sentence>system ai_setting=assistant\n{{content}}<end_of_sentence>\n",),
    observation=("<beginning_of_sentence>tool name=tools\n{{content}}" + _REPLY,),
    tool_format="minimax1",
    default_system="You are a helpful assistant.",
    stop_words=("<end_of_sentence>",),
)

MINIMAX2 = Template(
    name="minimax2",
    user=("]~b]user\n{{content}}[e~[\n]~b]ai\n",),
    assistant=("{{content}}[e~[\n",),
    system=("]~!b[]~b]system\n{{content}}[e~[\n",),
    observation=("]~b]tool\n<response>{{content}}</response>[e~[\n]~b]ai\n",),
    tool_format="minimax2",
    default_system="You are a helpful assistant. Your name is MiniMax-M2.1 and is built by MiniMax.",
    stop_words=("[e~[",),
    reasoning=True,
)
