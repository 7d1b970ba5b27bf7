"""The parts of a model: language model, encoders, projector, output head. Not a plugin; a library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from tkernel.errors import TkError
from tkernel_plugins.adapters.options import AdapterOptions

_PROJECTOR_WORDS = ("projector", "connector", "merger", "embed_vision", "aligner")


@dataclass(frozen=True)
class Parts:
    """Dotted prefixes of module names. For a text model `language` is `""` and the others are empty."""

    language: str
    projectors: tuple[str, ...] = ()
    towers: tuple[str, ...] = ()

    def frozen(self, options: AdapterOptions) -> tuple[str, ...]:
        """Prefixes that the options freeze; none for a text model."""
        if not self.language:
            return ()
        return (
            *(self.towers if options.freeze_vision_tower else ()),
            *(self.projectors if options.freeze_multi_modal_projector else ()),
            *((self.language,) if options.freeze_language_model else ()),
        )


def parts_of(module: Any) -> Parts:
    """Find the parts of a model: everything beside the decoder is an encoder or a projector."""
    config = module.config
    if not any(getattr(config, key, None) is not None for key in ("vision_config", "audio_config")):
        return Parts("")
    names = {id(child): name for name, child in module.named_modules()}
    language = names[id(module.get_decoder())]
    head = module.get_output_embeddings()
    beside = []
    steps = language.split(".") if language else []
    for depth in range(len(steps)):
        parent = module.get_submodule(".".join(steps[:depth]))
        for name, child in parent.named_children():
            if name != steps[depth] and child is not head and any(True for _ in child.parameters()):
                beside.append(".".join([*steps[:depth], name]))
    projectors = tuple(n for n in beside if any(w in n.rpartition(".")[2] for w in _PROJECTOR_WORDS))
    return Parts(language, projectors, tuple(n for n in beside if n not in projectors))


def under(name: str, prefixes: Sequence[str]) -> bool:
    """Whether the dotted `name` is one of `prefixes` or lies below one."""
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def linear_layers(module: Any, excluded: Sequence[str] = ()) -> Iterator[str]:
    """Full names of all linear layers (and GPT-2's `Conv1D`), without the output head and `excluded`."""
    import torch

    head = module.get_output_embeddings()
    for name, child in module.named_modules():
        linear = isinstance(child, torch.nn.Linear) or type(child).__name__ == "Conv1D"
        if linear and child is not head and not under(name, excluded):
            yield name


def short_name(name: str) -> str:
    """The last component of a dotted name; with its parent's where it is a mere number."""
    *parents, last = name.split(".")
    return f"{parents[-1]}.{last}" if last.isdigit() and parents else last


def matches(name: str, target: str) -> bool:
    """PEFT's rule: `target` is the whole dotted name or its end."""
    return name == target or name.endswith("." + target)


def no_match(key: str, target: str, candidates: Sequence[str], model: str) -> TkError:
    """The error for a name that matches nothing, with the ones that could."""
    short = sorted({short_name(name) for name in candidates})
    close = get_close_matches(target, short, n=1)
    suggestion = f"Did you mean {close[0]!r}? " if close else ""
    return TkError(
        f"`{key}: {target}` matches no module of {model}",
        hint=f"{suggestion}What could match: {', '.join(short) or 'nothing'}.",
    )
