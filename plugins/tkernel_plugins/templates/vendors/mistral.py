"""Templates of Mistral AI's models."""

from __future__ import annotations

from dataclasses import replace

from tkernel_plugins.templates.forms import MINISTRAL_TURNS, MISTRAL_TURNS

MISTRAL = replace(MISTRAL_TURNS, name="mistral")

MINISTRAL = replace(MINISTRAL_TURNS, name="ministral")

MINISTRAL3 = replace(MINISTRAL, name="ministral3", media="pixtral")

PIXTRAL = replace(MINISTRAL, name="pixtral", media="pixtral")

MISTRAL_SMALL = replace(
    MINISTRAL,
    name="mistral_small",
    system=("[SYSTEM_PROMPT]{{content}}[/SYSTEM_PROMPT]",),
    system_in_user=False,
    text_before_calls=True,
    media="pixtral",
)
