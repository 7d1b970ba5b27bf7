"""Real tokenizers and models that are made in milliseconds, in memory, from nothing.

They are transformers' own classes with random weights and a vocabulary of about 300 tokens, so a test
that passes on them exercises the same code as a real model. transformers and torch are imported when a
function is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tkernel.types.bundle import ModelBundle
from tkernel.types.facts import ModelFacts

SPECIAL_TOKENS = (
    *("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<image>"),
    *("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"),
    *("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "<|end|>"),
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
)
"""Special tokens of the tiny tokenizer: those of the common families, so that any template finds its own."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Merges make ids depend on where a text is cut, as they do in a real vocabulary.
MERGES = (
    *(("h", "e"), ("i", "n"), ("e", "r"), ("o", "n"), ("Ġ", "t"), ("Ġt", "he"), ("Ġ", "a"), ("a", "n")),
    *(("u", "s"), ("us", "er"), ("Ċ", "Ċ"), ("o", "r"), ("e", "s"), ("l", "l"), ("Ġ", "Ġ"), ("1", "2")),
)

_TEXT: Mapping[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    # Ten times transformers' default, so that random weights give distinct predictions.
    "initializer_range": 0.2,
}
_SMALL_HEADS: Mapping[str, Any] = {"head_dim": 8}
TINY_CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "llama": _TEXT,
    "mistral": _TEXT,
    "mixtral": {**_TEXT, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2": _TEXT,
    "qwen3": {**_TEXT, **_SMALL_HEADS},
    "gemma": {**_TEXT, **_SMALL_HEADS},
    "gemma2": {**_TEXT, **_SMALL_HEADS, "query_pre_attn_scalar": 8},
    "phi3": _TEXT,
    "glm": {**_TEXT, **_SMALL_HEADS},
}
"""`model_type` -> the sizes that make it tiny; everything else is transformers' default."""


def make_tokenizer(special_tokens: tuple[str, ...] = SPECIAL_TOKENS) -> Any:
    """A byte-level BPE `PreTrainedTokenizerFast` with a ChatML chat template and no file behind it.

    It round-trips every text, adds no BOS, and its padding token is its end of turn, as with many real
    models: padding can be told from a terminator only by position.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = sorted(pre_tokenizers.ByteLevel.alphabet()) + [left + right for left, right in MERGES]
    bpe = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=list(MERGES)))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def make_config(model_type: str = "llama", *, vocab_size: int, **overrides: Any) -> Any:
    """The tiny config of a `model_type` (a name in `TINY_CONFIGS`, or `llava`)."""
    from transformers import AutoConfig

    if model_type == "llava":
        return _llava_config(vocab_size, **overrides)
    sizes = {**TINY_CONFIGS[model_type], "vocab_size": vocab_size, **overrides}
    # Ids of real vocabularies (GLM's padding is 151329) lie outside of the tiny one.
    ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    return AutoConfig.for_model(model_type, **ids, **sizes)


def _llava_config(vocab_size: int, **overrides: Any) -> Any:
    from transformers import AutoConfig

    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    text = make_config("llama", vocab_size=vocab_size, **overrides)
    return AutoConfig.for_model("llava", vision_config=vision, text_config=text, image_seq_length=4)


def make_model(model_type: str = "llama", *, tokenizer: Any = None, seed: int = 0, **overrides: Any) -> Any:
    """A tiny random model in fp32 on the CPU, in eval mode; the same seed gives the same weights.

    Args:
        model_type: a name in `TINY_CONFIGS`, or `llava`; `LlamaForCausalLM` and the like are understood.
        tokenizer: whose vocabulary it serves; the tiny one by default.
        overrides: fields of the config.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    tokenizer = tokenizer if tokenizer is not None else make_tokenizer()
    config = make_config(
        model_type.removesuffix("ForCausalLM").lower(), vocab_size=len(tokenizer), **overrides
    )
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    text_config = config.get_text_config()
    for name, value in {**ids, "bos_token_id": tokenizer.bos_token_id}.items():
        setattr(text_config, name, value)
    auto = AutoModelForCausalLM
    if config.model_type == "llava":
        config.image_token_index = tokenizer.convert_tokens_to_ids("<image>")
        auto = AutoModelForImageTextToText
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto.from_config(config, dtype=torch.float32)
    return model.eval()


def make_processor(tokenizer: Any) -> Any:
    """The processor of a tiny LLaVA: four feature rows an image, no torchvision needed."""
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    size = {"height": 28, "width": 28}
    images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=size)
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )


def facts_of(model: Any, tokenizer: Any, *, location: str | Path | None = None) -> ModelFacts:
    """The facts of a model in memory, or of the folder that it was saved to."""
    config = model.config.to_dict()
    return ModelFacts(
        name=str(location) if location is not None else f"tiny-{config['model_type']}",
        source="folder" if location is not None else "memory",
        location=str(location) if location is not None else None,
        model_type=config["model_type"],
        architectures=(type(model).__name__,),
        chat_template=tokenizer.chat_template,
        config=config,
    )


def make_bundle(
    model_type: str = "llama", *, seed: int = 0, role: str = "policy", **overrides: Any
) -> ModelBundle:
    """A tiny model with its tokenizer (and processor, for `llava`) as `load_model` would return it."""
    tokenizer = make_tokenizer()
    model = make_model(model_type, tokenizer=tokenizer, seed=seed, **overrides)
    processor = make_processor(tokenizer) if model.config.model_type == "llava" else None
    return ModelBundle(model, tokenizer, facts_of(model, tokenizer), processor, role)


def save_model(
    folder: str | Path, model_type: str = "llama", *, seed: int = 0, **overrides: Any
) -> ModelFacts:
    """Save a tiny model, its tokenizer and its processor into `folder`; the facts of that folder."""
    bundle = make_bundle(model_type, seed=seed, **overrides)
    bundle.module.save_pretrained(folder)
    bundle.tokenizer.save_pretrained(folder)
    if bundle.processor is not None:
        bundle.processor.save_pretrained(folder)
    return facts_of(bundle.module, bundle.tokenizer, location=folder)
