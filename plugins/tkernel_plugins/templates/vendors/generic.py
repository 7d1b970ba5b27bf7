"""Templates that belong to no model."""

from __future__ import annotations

from dataclasses import replace

from tkernel_plugins.templates.forms import IM_TOOL_TURNS, VICUNA_TURNS
from tkernel_plugins.templates.slots import CONTENT, EOS
from tkernel_plugins.templates.template import Template

DEFAULT = Template(
    name="default",
    user=("Human: {{content}}", EOS, "\nAssistant:"),
    assistant=(CONTENT, EOS, "\n"),
    system=("System: {{content}}", EOS, "\n"),
)

EMPTY = Template(name="empty", assistant=(CONTENT,))

FEWSHOT = Template(name="fewshot", assistant=("{{content}}\n\n",), efficient_eos=True)

ALPACA = Template(
    name="alpaca",
    user=("### Instruction:\n{{content}}\n\n### Response:\n",),
    assistant=(CONTENT, EOS, "\n\n"),
    default_system=(
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
    ),
)

CHATML = replace(IM_TOOL_TURNS, name="chatml", stop_words=("<|im_end|>", "<|im_start|>"), replace_eos=True)

CHATML_DE = replace(
    CHATML,
    name="chatml_de",
    default_system="Du bist ein freundlicher und hilfsbereiter KI-Assistent.",
)

VICUNA = replace(VICUNA_TURNS, name="vicuna")
