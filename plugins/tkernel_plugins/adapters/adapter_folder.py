"""An adapter folder as peft writes it, and whether it fits a model. Not a plugin; the library of `lora`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tkernel.errors import TkError
from tkernel_plugins.adapters.adapter_config import (
    CONFIG,
    WEIGHTS,
    check_weights,
    hub_access,
    read_config,
)

HEAD = "value_head.safetensors"
"""The head of a reward model, beside its adapter."""
TOKENIZER = ("tokenizer.json", "added_tokens.json")
"""The files beside an adapter that say which token an id is."""


@dataclass(frozen=True)
class AdapterFolder:
    """Its path, the content of `adapter_config.json`, and the shape of every tensor."""

    path: str
    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)


def read_adapter(name: str, settings: Mapping[str, Any]) -> AdapterFolder:
    """Read config and shapes of the LoRA adapter in folder (or hub id) `name`, not its weights.

    Args:
        settings: those of the run, for `cache_dir` and `hf_hub_token`.

    Raises:
        TkError: no such folder, files missing, pickled weights, or another method than LoRA.
    """
    folder = _folder_of(name, settings)
    config = read_config(folder)
    check_weights(folder)
    return AdapterFolder(str(folder), config, _shapes(folder / WEIGHTS))


def check_layers(folder: AdapterFolder, module: Any, model: str) -> None:
    """Compare every A and B of the adapter with the layer of `module` that it belongs to.

    Raises:
        TkError: a layer or a row of embeddings that `module` does not have, or one of other sizes.
    """
    base = folder.config.get("base_model_name_or_path") or "another model"
    layers = dict(module.named_modules())
    rows, last = module.get_input_embeddings().weight.shape[0], max(_trained_rows(folder), default=-1)
    if last >= rows:
        raise TkError(
            f"adapter {folder.path} has an embedding for token {last}, {model} with this template has {rows}",
            hint="Name the `template` that it was trained with; run.lock.json in its folder says which.",
        )
    for key, shape in folder.shapes.items():
        found = re.fullmatch(r"base_model\.model\.(.+)\.lora_(A|B)\.weight", key)
        if not found:
            continue
        name, side = found.groups()
        weight = getattr(layers.get(name), "weight", None)
        if weight is None:
            raise TkError(
                f"adapter {folder.path} has weights for {name}, which {model} ({module.config.model_type}) lacks",
                hint=f"It was made for {base}: name that in `model_name_or_path`.",
            )
        if getattr(weight, "quant_type", None) or weight.ndim != 2 or type(layers[name]).__name__ == "Conv1D":
            continue
        size = weight.shape[1] if side == "A" else weight.shape[0]
        have = shape[1] if side == "A" else shape[0]
        if size != have:
            raise TkError(
                f"adapter {folder.path} has {have} {'inputs' if side == 'A' else 'outputs'} for {name}, "
                f"{model} has {size}",
                hint=f"It was made for {base}: name that in `model_name_or_path`.",
            )


def check_tokens(folder: AdapterFolder, wanted: Mapping[str, Sequence[int]], tokenizer: Any) -> None:
    """Compare the embeddings that must be trained, `{module: ids}`, with those that the adapter holds.

    Raises:
        TkError: an id that the adapter neither trains nor saves, so that its embedding would stay random.
    """
    missing = sorted({token for ids in wanted.values() for token in ids} - _trained_rows(folder))
    if missing:
        raise TkError(
            f"adapter {folder.path}, which is trained further, has no embedding for "
            f"{', '.join(map(repr, tokenizer.convert_ids_to_tokens(missing)))}, new in the vocabulary",
            hint="Name the `template` that it was trained with, or merge it with `create_new_adapter: true`.",
        )


def check_names(folder: AdapterFolder, tokenizer: Any) -> None:
    """Compare the tokens whose embeddings the adapter brings, as the tokenizer beside it names them.

    Raises:
        TkError: an embedding that was trained for one token would be another's: another template added as
            many tokens, with the same ids.
    """
    rows = sorted(_trained_rows(folder))
    saved = _saved_names(Path(folder.path)) if rows else {}
    for row, name in zip(rows, tokenizer.convert_ids_to_tokens(rows), strict=True):
        if saved.get(row, name) != name:
            raise TkError(
                f"adapter {folder.path} has an embedding for {saved[row]!r}, and here token {row} is {name!r}",
                hint="Name the `template` that it was trained with; run.lock.json in its folder says which.",
            )


def _trained_rows(folder: AdapterFolder) -> set[int]:
    """The ids of the tokens whose embeddings the adapter holds one by one."""
    rows = folder.config.get("trainable_token_indices") or []
    lists = rows.values() if isinstance(rows, Mapping) else [rows]
    return {token for ids in lists for token in ids}


def _saved_names(folder: Path) -> dict[int, str]:
    """The added tokens of the tokenizer in `folder`, by id; none if no tokenizer was saved there."""
    whole, added = (folder / name for name in TOKENIZER)
    if whole.is_file():
        entries = json.loads(whole.read_text(encoding="utf-8")).get("added_tokens", [])
        return {entry["id"]: entry["content"] for entry in entries}
    if added.is_file():
        return {row: name for name, row in json.loads(added.read_text(encoding="utf-8")).items()}
    return {}


def _folder_of(name: str, settings: Mapping[str, Any]) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise TkError(
            f"adapter_name_or_path: there is no folder {name}", hint=f"Looked for {path.absolute()}."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        wanted = [CONFIG, WEIGHTS, HEAD, *TOKENIZER]
        return Path(snapshot_download(name, allow_patterns=wanted, **hub_access(settings)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise TkError(
            f"adapter_name_or_path: there is no folder {name}, and no adapter of that name on the hub or in "
            f"the cache ({type(error).__name__})",
            hint=f"Looked for {path.absolute()}. To fetch one: hf download {name}",
        ) from error


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise TkError(f"{path} is damaged: {error}", hint="Use an earlier checkpoint of that run.") from error
