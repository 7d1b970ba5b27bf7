"""Templates of the LLaVA, LLaVA-NeXT and Video-LLaVA models, which speak as their language models do."""

from __future__ import annotations

from dataclasses import replace

from tkernel_plugins.templates.forms import IM_TURNS, LLAMA3_TURNS, MISTRAL_TURNS, QWEN_TURNS, VICUNA_TURNS

LLAVA = replace(VICUNA_TURNS, name="llava", media="llava")

LLAVA_NEXT = replace(VICUNA_TURNS, name="llava_next", media="llava_next")

LLAVA_NEXT_LLAMA3 = replace(LLAMA3_TURNS, name="llava_next_llama3", media="llava_next")

LLAVA_NEXT_MISTRAL = replace(MISTRAL_TURNS, name="llava_next_mistral", media="llava_next")

LLAVA_NEXT_QWEN = replace(
    QWEN_TURNS, name="llava_next_qwen", default_system="You are a helpful assistant.", media="llava_next"
)

LLAVA_NEXT_YI = replace(IM_TURNS, name="llava_next_yi", media="llava_next")

LLAVA_NEXT_VIDEO = replace(VICUNA_TURNS, name="llava_next_video", media="llava_next_video")

LLAVA_NEXT_VIDEO_MISTRAL = replace(MISTRAL_TURNS, name="llava_next_video_mistral", media="llava_next_video")

LLAVA_NEXT_VIDEO_YI = replace(IM_TURNS, name="llava_next_video_yi", media="llava_next_video")

VIDEO_LLAVA = replace(VICUNA_TURNS, name="video_llava", media="video_llava")
