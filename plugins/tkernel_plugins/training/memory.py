"""Whether the activations of a step fit into memory, or have to be computed twice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from tkernel.types.requests import StageRequest
from tkernel_plugins.training.stage_trainer import StageTrainer
from tkernel_plugins.training.trainer import SupervisedTrainer

SHARE = 0.7
"""Of the free memory, what activations may take."""

KEYS = ("activation_checkpointing", "gradient_checkpointing", "disable_gradient_checkpointing")


@dataclass(frozen=True)
class Held:
    """How many tokens are held at once for the gradient of a micro-batch, where its samples are the longest."""

    tokens: int
    logits: int = 0
    """Tokens whose logits are held."""

    @classmethod
    def of_batch(
        cls, arguments: TrainingArguments, longest: int, *, sequences: int = 1, logits: int = 0
    ) -> Held:
        """Of a whole micro-batch.

        Args:
            longest: most tokens of a sequence.
            sequences: of a sample.
            logits: how often the logits of all its tokens are held.
        """
        tokens = arguments.per_device_train_batch_size * sequences * longest
        return cls(tokens, logits * tokens)

    @classmethod
    def of_text(cls, trainer: SupervisedTrainer) -> Held | None:
        """Of what `SupervisedTrainer` makes of a micro-batch; None where no longest sample is known."""
        if not trainer.longest:
            return None
        fused = trainer.fused
        if fused is not None and fused.by_row and fused.takes_gradients():
            return cls(max(trainer.longest, fused.longest))
        return cls.of_batch(trainer.args, trainer.longest, logits=int(fused is None))


def settle_checkpointing(trainer: StageTrainer, request: StageRequest, held: Held | None) -> list[str]:
    """Turn gradient checkpointing on where activations would not fit; lines for the screen.

    On a CPU only: on a GPU it is on from the start. A user who has set one of `KEYS` has decided.
    """
    settings = {**request.settings, **request.arguments}
    decided = any(settings.get(key) is not None for key in KEYS)
    model = trainer.model
    enable = getattr(model, "activation_checkpointing_enable", None) or getattr(
        model, "gradient_checkpointing_enable", None
    )
    if decided or enable is None or not trainer.args.do_train or trainer.args.device.type != "cpu":
        return []
    needed, free = activations(trainer, held), free_bytes()
    if needed is None or free is None or needed <= SHARE * free:
        return []
    enable({"use_reentrant": False})
    return [
        f"memory     activations of a micro-batch may take {needed / 2**30:.1f} GiB and {free / 2**30:.1f} are "
        "free: they are computed twice (`disable_gradient_checkpointing: true` keeps them)"
    ]


def activations(trainer: StageTrainer, held: Held | None) -> int | None:
    """Bytes that `held` takes; None for an unknown model.

    A layer holds 34 bytes per token and unit of width in sixteen bits (Korthikanti et al. 2022,
    arXiv:2205.05198, without the square of the length, which torch's attention does not hold).
    """
    config: Any = getattr(trainer.model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    width, layers = getattr(config, "hidden_size", None), getattr(config, "num_hidden_layers", None)
    if not (width and layers and held):
        return None
    size = 2 if trainer.args.bf16 or trainer.args.fp16 else 4
    # Logits, the same in float32, their softmax and its gradient.
    of_logits = held.logits * config.vocab_size * (size + 12)
    return int(held.tokens * layers * width * 17 * size + of_logits)


def free_bytes() -> int | None:
    """Memory that this process can still get; None where nobody says."""
    found = []
    meminfo = Path("/proc/meminfo")
    for line in meminfo.read_text().splitlines() if meminfo.is_file() else ():
        if line.startswith("MemAvailable:"):
            found.append(1024 * int(line.split()[1]))
    group = Path("/sys/fs/cgroup")
    if (group / "memory.max").is_file() and (group / "memory.current").is_file():
        most = (group / "memory.max").read_text().strip()
        if most.isdigit():
            found.append(int(most) - int((group / "memory.current").read_text()))
    return min(found, default=None)
