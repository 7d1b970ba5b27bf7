"""Whether the activations of a step fit into memory, or have to be computed twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tkernel.types.requests import StageRequest
from tkernel_plugins.training.trainer import SupervisedTrainer

SHARE = 0.7
"""Of the free memory, what activations may take."""

KEYS = ("activation_checkpointing", "gradient_checkpointing", "disable_gradient_checkpointing")


def settle_checkpointing(trainer: SupervisedTrainer, request: StageRequest) -> list[str]:
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
    needed, free = activations(trainer), free_bytes()
    if needed is None or free is None or needed <= SHARE * free:
        return []
    enable({"use_reentrant": False})
    return [
        f"memory     activations of a micro-batch may take {needed / 2**30:.1f} GiB and {free / 2**30:.1f} are "
        "free: they are computed twice (`disable_gradient_checkpointing: true` keeps them)"
    ]


def activations(trainer: SupervisedTrainer) -> int | None:
    """Bytes that a micro-batch of the longest samples holds for its gradient; None for an unknown model.

    A layer holds 34 bytes per token and unit of width in sixteen bits (Korthikanti et al. 2022,
    arXiv:2205.05198, without the square of the length, which torch's attention does not hold).
    """
    config: Any = getattr(trainer.model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    width, layers = getattr(config, "hidden_size", None), getattr(config, "num_hidden_layers", None)
    if not (width and layers and trainer.longest):
        return None
    size = 2 if trainer.args.bf16 or trainer.args.fp16 else 4
    fused = trainer.fused
    tokens = trainer.longest * trainer.args.per_device_train_batch_size
    if fused is not None and fused.by_row and fused.takes_gradients():
        tokens = max(trainer.longest, fused.longest)
    needed = tokens * layers * width * 17 * size
    if fused is None:
        # Logits, the same in float32, their softmax and its gradient.
        needed += tokens * config.vocab_size * (size + 12)
    return int(needed)


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
