"""From a checkpoint of transformers to a model of OpenVINO whose cache is its own state."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import openvino
import torch
from openvino import opset13
from openvino._offline_transformations import apply_make_stateful_transformation
from transformers.cache_utils import DynamicCache, DynamicLayer

FORMAT = 1
"""Raised when what is written changes, so that what older versions wrote is not used."""
FAMILIES = ("gemma", "glm", "llama", "mistral", "phi3", "qwen2", "qwen3")
"""Values of `model_type` whose converted models say token by token what transformers says (the tests hold it)."""
INPUTS = ("input_ids", "attention_mask", "position_ids", "beam_idx")


class _WithFlatCache(torch.nn.Module):
    """The model with its keys and values as plain tensors, one input and one output each."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        beam_idx: torch.Tensor,
        *past: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        cache = DynamicCache()
        cache.layers = [
            _layer(keys.index_select(0, beam_idx), values.index_select(0, beam_idx))
            for keys, values in zip(past[::2], past[1::2], strict=True)
        ]
        said = self.module(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        return said.logits, *(part for layer in cache.layers for part in (layer.keys, layer.values))


def convert(module: Any, file: Path) -> None:
    """Write a causal language model in float32 as `file` (`.xml`, the weights beside it as `.bin`).

    The graph is traced with a cache, so that it serves prompts and single tokens alike. It has the inputs, names
    and state that OpenVINO's rewriting to paged attention looks for (`ov::pass::SDPAToPagedAttention`).
    """
    config = module.config.get_text_config()
    heads = config.num_key_value_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    past = [torch.zeros(2, heads, 3, size) for _ in range(2 * config.num_hidden_layers)]
    example = (
        torch.zeros(2, 4, dtype=torch.long),
        torch.ones(2, 7, dtype=torch.long),
        torch.arange(3, 7).expand(2, -1),
        torch.arange(2),
        *past,
    )
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's about shapes that are constant here
        model = openvino.convert_model(_WithFlatCache(module), example_input=example)
    states = [f"{number}.{part}" for number in range(config.num_hidden_layers) for part in ("key", "value")]
    shapes = {}
    for name, given in zip(
        [*INPUTS, *(f"past_key_values.{state}" for state in states)], model.inputs, strict=True
    ):
        given.get_tensor().set_names({name})
        free = [-1] if name == "beam_idx" else [-1, -1]
        shapes[given] = openvino.PartialShape(free if name in INPUTS else [-1, heads, -1, size])
    for name, given in zip(["logits", *(f"present.{state}" for state in states)], model.outputs, strict=True):
        given.get_tensor().set_names({name})
    model.reshape(shapes)
    apply_make_stateful_transformation(
        model, {f"past_key_values.{state}": f"present.{state}" for state in states}
    )
    _start_empty(model, heads, size)
    openvino.save_model(model, file, compress_to_fp16=False)


def _layer(keys: torch.Tensor, values: torch.Tensor) -> DynamicLayer:
    layer = DynamicLayer()
    layer.keys, layer.values = keys, values
    layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True
    return layer


def _start_empty(model: Any, heads: int, size: int) -> None:
    """Let every state begin as `(rows of input_ids, heads, 0, size)`."""
    shape = opset13.shape_of(model.input("input_ids"), output_type="i64")
    rows = opset13.gather(shape, opset13.constant([0]), opset13.constant(0))
    whole = opset13.concat([rows, opset13.constant([heads, 0, size], dtype="int64")], axis=0)
    empty = opset13.broadcast(opset13.constant(0.0, dtype="float32"), whole)
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([empty.output(0)])
    model.validate_nodes_and_infer_types()
