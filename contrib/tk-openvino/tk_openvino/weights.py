"""What OpenVINO is given to load: a GGUF file, or a folder with `openvino_model.xml`."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tk_openvino.converting import FAMILIES, FORMAT, convert
from tkernel.errors import TkError
from tkernel.lock import content_hash
from tkernel.types.facts import ModelFacts
from tkernel.types.requests import EngineRequest
from tkernel_plugins.data.cache import cache_folder

MODEL = "openvino_model.xml"
EXPORT = "Merge it first, and serve the result: tk export FILE export_dir=DIR"


def weights_of(request: EngineRequest) -> Path:
    """Where OpenVINO finds the model of a request; a checkpoint is converted, with its adapters merged, and kept.

    Raises:
        TkError: a module in memory, an adapter on a GGUF file, tokens that the template adds, or a model that cannot be
            converted.
    """
    facts, bundle = request.facts, request.bundle
    assert facts is not None
    if bundle is not None and bundle.module is not None:
        raise TkError("the engine `openvino` loads from a path, not a model in memory", hint=EXPORT)
    if request.renderer is not None and request.renderer.added_tokens:
        tokens = ", ".join(request.renderer.added_tokens[:4])
        raise TkError(f"the template adds tokens to the model's vocabulary: {tokens}", hint=EXPORT)
    if facts.location is None:
        raise TkError(
            f"{facts.name} is not on this machine",
            hint=f"Download it, and name the folder: hf download {facts.name} --local-dir DIR",
        )
    path = Path(facts.location)
    if facts.source == "gguf" or (path / MODEL).is_file():
        if request.adapters:
            kind = "a GGUF file" if facts.source == "gguf" else "a converted model"
            raise TkError(f"OpenVINO takes no adapter on {kind}: {request.adapters[0]}", hint=EXPORT)
        return path
    _check(facts)
    folder = cache_folder() / "openvino" / _key(facts, request.adapters)
    if not (folder / MODEL).is_file():
        _write(path, request.adapters, folder)
    return folder


def _check(facts: ModelFacts) -> None:
    config: Mapping[str, Any] = facts.config
    by_hand = f"optimum-cli export openvino --model {facts.location} --task text-generation-with-past DIR"
    if facts.model_type not in FAMILIES or facts.is_multimodal or facts.remote_code:
        raise TkError(
            f"models of type {facts.model_type!r} are not converted for OpenVINO: {', '.join(FAMILIES)} are",
            hint=f"Convert it in an environment with optimum-intel, and name DIR: {by_hand}",
        )
    window, context = config.get("sliding_window"), config.get("max_position_embeddings")
    if window and config.get("use_sliding_window", True) and window < (context or window + 1):
        raise TkError(
            f"{facts.name} attends to the last {window:,} tokens alone (`sliding_window`), which is not converted",
            hint=f"Convert it in an environment with optimum-intel, and name DIR: {by_hand}",
        )


def _key(facts: ModelFacts, adapters: tuple[str, ...]) -> str:
    """A name made of the contents of model and adapters, and of what converts them."""
    import openvino
    import transformers

    location = Path(str(facts.location))
    parts = [facts.content_hash or content_hash(*_files(location))]
    parts += [content_hash(*_files(Path(adapter).expanduser())) for adapter in adapters]
    parts += [str(FORMAT), openvino.get_version(), transformers.__version__]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix in (".json", ".safetensors", ".bin"))


def _write(path: Path, adapters: tuple[str, ...], folder: Path) -> None:
    """Convert into a folder beside the last one, and move it there, so that none is ever half written."""
    import torch
    from transformers import AutoModelForCausalLM

    from tkernel_plugins.training.quiet import quiet

    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}."))
    try:
        with quiet():
            module = AutoModelForCausalLM.from_pretrained(
                path, dtype=torch.float32, attn_implementation="sdpa"
            ).eval()
            for adapter in adapters:
                module = _merged(module, adapter)
            convert(module, scratch / MODEL)
        try:
            os.rename(scratch, folder)
        except OSError:
            if not (folder / MODEL).is_file():  # else another process was first
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _merged(module: Any, adapter: str) -> Any:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(module, str(Path(adapter).expanduser())).merge_and_unload()
    except (ValueError, RuntimeError, OSError) as error:
        raise TkError(f"adapter {adapter} cannot be merged: {error}", hint=EXPORT) from error
