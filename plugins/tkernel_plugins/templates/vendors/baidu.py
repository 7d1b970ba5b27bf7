"""Templates of Baidu's ERNIE models."""

from __future__ import annotations

from tkernel_plugins.templates.template import Template

ERNIE = Template(
    name="ernie",
    user=("<|im_start|>user\n{{content}}<|im_end|>\n\n<|im_start|>assistant\n",),
    assistant=("{{content}}<|im_end|>\n\n",),
    system=("<|im_start|>system\n{{content}}<|im_end|>\n\n",),
    observation=("<|im_start|>tool\n{{content}}<|im_end|>\n\n<|im_start|>assistant\n",),
    default_system="<global_setting>\nthink_mode=True\n</global_setting>",
    stop_words=("<|im_end|>",),
)

ERNIE_NOTHINK = Template(
    name="ernie_nothink",
    prefix=("<|begin_of_sentence|>",),
    user=("User: {{content}}\nAssistant: ",),
    assistant=("{{content}}<|end_of_sentence|>",),
    system=("{{content}}\n",),
    stop_words=("<|end_of_sentence|>",),
)

# The opening of a reply is a part of it, and an empty thought stands before that: LLaMA-Factory's.
ERNIE_VL = Template(
    name="ernie_vl",
    user=("User: {{content}}",),
    assistant=("\nAssistant: {{content}}<|end_of_sentence|>",),
    system=("{{content}}\n",),
    stop_words=("<|end_of_sentence|>",),
    replace_eos=True,
    reasoning=True,
    media="ernie_vl",
)
