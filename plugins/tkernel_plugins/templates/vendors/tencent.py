"""Templates of Tencent's Hunyuan and Youtu models."""

from __future__ import annotations

from tkernel_plugins.templates.slots import BOS, CONTENT
from tkernel_plugins.templates.template import Template

HUNYUAN = Template(
    name="hunyuan",
    prefix=("<|startoftext|>",),
    user=("{{content}}<|extra_0|>",),
    assistant=("{{content}}<|eos|>",),
    system=("{{content}}<|extra_4|>",),
    stop_words=("<|eos|>",),
)

HUNYUAN_SMALL = Template(
    name="hunyuan_small",
    prefix=("<｜hy_begin▁of▁sentence｜>",),
    user=("<｜hy_User｜>{{content}}<｜hy_place▁holder▁no▁8｜>",),
    assistant=("{{content}}<｜hy_place▁holder▁no▁2｜>",),
    system=("{{content}}<｜hy_place▁holder▁no▁3｜>",),
    stop_words=("<｜hy_place▁holder▁no▁2｜>",),
)

HY3 = Template(
    name="hy3",
    prefix=(BOS,),
    user=("<｜hy_User｜>{{content}}<｜hy_Assistant｜>",),
    assistant=("{{content}}<｜hy_eos｜>",),
    stop_words=("<｜hy_eos｜>",),
    replace_eos=True,
    reasoning=True,
    thought_words=("<think>", "</think>"),
)

HY_DENSE_1_8B = Template(
    name="hy_dense_1_8b",
    prefix=(BOS,),
    user=("<｜hy_User｜>{{content}}",),
    assistant=("<｜hy_Assistant｜>{{content}}",),
    system=("{{content}}<｜hy_place▁holder▁no▁3｜>",),
    stop_words=("<｜hy_place▁holder▁no▁2｜>",),
    efficient_eos=True,
)

HY_DENSE_7B = Template(
    name="hy_dense_7b",
    prefix=(BOS,),
    user=("{{content}}<|extra_0|>",),
    assistant=(CONTENT,),
    system=("{{content}}<|extra_4|>",),
    stop_words=("<|eos|>",),
    efficient_eos=True,
)

YOUTU = Template(
    name="youtu",
    prefix=(BOS,),
    user=("<|User|>{{content}}<|Assistant|>",),
    assistant=("{{content}}<|end_of_text|>",),
    function=(CONTENT,),
    observation=("<tool_response>\n{{content}}\n</tool_response><|Assistant|>",),
    stop_words=("<|end_of_text|>",),
    replace_eos=True,
    reasoning=True,
)

YOUTU_VL = Template(
    name="youtu_vl",
    user=("<|begin_of_text|>user\n{{content}}<|end_of_text|>\n<|begin_of_text|>assistant\n",),
    assistant=("{{content}}<|end_of_text|>\n",),
    system=("<|begin_of_text|>system\n{{content}}<|end_of_text|>\n",),
    default_system="You are a helpful assistant.",
    stop_words=("<|end_of_text|>",),
    media="youtu_vl",
)
