"""Templates of ByteDance's Seed models."""

from __future__ import annotations

from dataclasses import replace

from tkernel_plugins.templates.slots import BOS, EOS
from tkernel_plugins.templates.template import Template

SEED_CODER = Template(
    name="seed_coder",
    user=(BOS, "user\n{{content}}", EOS, BOS, "assistant\n"),
    system=(BOS, "system\n{{content}}", EOS),
    default_system=(
        "You are an AI programming assistant, utilizing the Seed-Coder model, developed by ByteDance Seed, and "
        "you only answer questions related to computer science. For politically sensitive questions, security "
        "and privacy issues, and other non-computer science questions, you will refuse to answer.\n\n"
    ),
)

SEED_OSS = replace(
    SEED_CODER,
    name="seed_oss",
    function=(BOS, "\n{{content}}", EOS),
    tool_format="seed_oss",
    default_system="",
    reasoning=True,
    thought_words=("<seed:think>", "</seed:think>"),
)
