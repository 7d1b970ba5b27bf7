"""Templates that belong to no model."""

from __future__ import annotations

from tkernel_plugins.templates.slots import CONTENT, EOS
from tkernel_plugins.templates.template import Template

DEFAULT = Template(
    name="default",
    user=("Human: {{content}}", EOS, "\nAssistant:"),
    assistant=(CONTENT, EOS, "\n"),
    system=("System: {{content}}", EOS, "\n"),
)

ALPACA = Template(
    name="alpaca",
    user=("### Instruction:\n{{content}}\n\n### Response:\n",),
    assistant=(CONTENT, EOS, "\n\n"),
    default_system=(
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
    ),
)

CHATML = Template(
    name="chatml",
    user=("<|im_start|>user\n{{content}}<|im_end|>\n<|im_start|>assistant\n",),
    assistant=("{{content}}<|im_end|>\n",),
    system=("<|im_start|>system\n{{content}}<|im_end|>\n",),
    observation=("<|im_start|>tool\n{{content}}<|im_end|>\n<|im_start|>assistant\n",),
    stop_words=("<|im_end|>", "<|im_start|>"),
    replace_eos=True,
)
