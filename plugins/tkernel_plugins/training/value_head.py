"""A value for every token: one linear output on the hidden states of a causal language model.

The head is a part of the transformers model that it stands on, `model.v_head`, so that it moves, trains and is
checkpointed with it. On disk it is `value_head.safetensors` beside the model or adapter, with the names that
TRL's `AutoModelForCausalLMWithValueHead` uses: `v_head.summary.weight` (1, width), `v_head.summary.bias` (1,).
LLaMA-Factory reads and writes the same file, for reward models and PPO.

A `ScoreHead`, `model.score`, is that of transformers' models for sequence classification with one label, and is
saved with them; see `score_head`. Everything here but `save` is for either.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tkernel.errors import TkError

NAME = "v_head"
"""The head's name as a part of the model."""
SCORE = "score"
"""The same of a head for classification."""
FILE, PICKLED = "value_head.safetensors", "value_head.bin"


class ValueHead(torch.nn.Module):
    """`summary`, a linear layer from the model's width to one number, in float32."""

    def __init__(self, width: int, device: torch.device | None = None) -> None:
        super().__init__()
        self.summary = torch.nn.Linear(width, 1, device=device, dtype=torch.float32)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., width) to (...), float32."""
        with torch.autocast(hidden.device.type, enabled=False):
            values: torch.Tensor = self.summary(hidden.to(self.summary.weight.dtype)).squeeze(-1)
        return values


class ScoreHead(torch.nn.Linear):
    """A linear layer without bias from the model's width to one number, in float32."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 1, bias=False, dtype=torch.float32)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., width) to (...), float32."""
        with torch.autocast(hidden.device.type, enabled=False):
            return super().forward(hidden.to(self.weight.dtype)).squeeze(-1)


Head = ValueHead | ScoreHead
NAMES: Mapping[type[torch.nn.Module], str] = {ValueHead: NAME, ScoreHead: SCORE}


def attach(model: Any, *, seed: int | None = None, kind: type[Head] = ValueHead) -> Head:
    """Give `model` (a causal language model, or a PEFT model around one) a head, and return it.

    A head that is there already, of whatever kind, is returned as it is. A new one is drawn from `seed` as
    torch draws linear layers, whatever else was drawn before; None leaves it to the global generator.
    """
    base = base_of(model)
    if (present := head_of(model)) is not None:
        return present
    device = base.get_input_embeddings().weight.device
    if seed is None:
        head = kind(width_of(base))
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = kind(width_of(base))
    setattr(base, NAMES[kind], head.to(device))
    return head


def head_of(model: Any) -> Head | None:
    """The head of `model`, if it has one."""
    heads = (getattr(base_of(model), name, None) for name in NAMES.values())
    return next((head for head in heads if isinstance(head, Head)), None)


def detach(model: Any) -> None:
    """Take the head off, if there is one."""
    if (head := head_of(model)) is not None:
        delattr(base_of(model), NAMES[type(head)])


def values(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """The value of every token, (batch, length) in float32.

    Args:
        inputs: what the model takes: `input_ids` (batch, length), perhaps `attention_mask`, `position_ids`, ...

    Raises:
        TkError: the model has no value head.
    """
    head = head_of(model)
    if head is None:
        raise TkError(
            f"{type(base_of(model)).__name__} has no value head", hint="Call `attach` or `load` first."
        )
    result: torch.Tensor = head(hidden_states(model, inputs))
    return result


def last_values(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """The value of each sequence's last token, (batch,); padding, where the attention mask is 0, is on any side."""
    found = values(model, inputs)
    return found.gather(1, last_tokens(inputs, found.shape)[:, None])[:, 0]


def last_tokens(inputs: dict[str, Any], shape: torch.Size) -> torch.Tensor:
    """(batch,), the position of each sequence's last token."""
    mask = inputs.get("attention_mask")
    if mask is None:
        return torch.full(shape[:1], shape[1] - 1, device=inputs["input_ids"].device)
    positions = torch.arange(shape[1], device=mask.device)
    last: torch.Tensor = (mask.ne(0) * positions).argmax(1)
    return last


def hidden_states(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """(batch, length, width), what the output layer of the language model reads; no logits are computed."""
    base = base_of(model)
    body = getattr(base, base.base_model_prefix, None)
    if body is None or body is base:
        output = base(**inputs, use_cache=False, output_hidden_states=True)
        states: torch.Tensor = output.hidden_states[-1]
        return states
    states = body(**inputs, use_cache=False).last_hidden_state
    return states


def save(model: Any, folder: str | Path) -> Path:
    """Write the head of `model` to `folder/value_head.safetensors`, and return that path.

    Raises:
        TkError: the model has no value head.
    """
    from safetensors.torch import save_file

    head = head_of(model)
    if not isinstance(head, ValueHead):
        raise TkError(f"{type(base_of(model)).__name__} has no value head to save")
    tensors = {
        f"{NAME}.{name}": tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()
    }
    path = Path(folder) / FILE
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def has_saved(folder: str | Path) -> bool:
    """Whether there is a value head in `folder`."""
    return any((Path(folder) / name).is_file() for name in (FILE, PICKLED))


def load(model: Any, folder: str | Path) -> Head:
    """Attach the value head in `folder` to `model`, whose own is overwritten, and return it.

    Raises:
        TkError: there is none in `folder`, or it was made for a model of another width.
    """
    tensors = _read(Path(folder))
    if isinstance(head_of(model), ScoreHead):
        detach(model)
    head = attach(model, seed=0)
    wanted = {f"{NAME}.{name}": tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    have = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if have != wanted:
        raise TkError(
            f"the value head in {folder} has {have}, and {type(base_of(model)).__name__} needs {wanted}",
            hint="Name the model that it was trained on.",
        )
    head.load_state_dict({name.removeprefix(f"{NAME}."): tensor for name, tensor in tensors.items()})
    return head


def base_of(model: Any) -> Any:
    """The transformers model inside of a PEFT model."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def width_of(base: Any) -> int:
    """The width of what the output layer reads."""
    config = base.config.get_text_config()
    return int(getattr(config, "word_embed_proj_dim", None) or config.hidden_size)


def _read(folder: Path) -> dict[str, torch.Tensor]:
    if (folder / FILE).is_file():
        from safetensors.torch import load_file

        tensors: dict[str, torch.Tensor] = load_file(folder / FILE)
        return tensors
    if (folder / PICKLED).is_file():
        pickled: dict[str, torch.Tensor] = torch.load(folder / PICKLED, map_location="cpu", weights_only=True)
        return pickled
    raise TkError(
        f"there is no {FILE} in {folder}, so it is no reward model",
        hint="Train one with `stage: rm`, or name the folder of one.",
    )
