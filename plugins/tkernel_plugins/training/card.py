"""The model card of a run, `output_dir/README.md`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from tkernel.types.requests import StageRequest
from tkernel_plugins.training.summary import adapter_words

LIBRARIES = ("tkernel", "torch", "transformers", "peft", "datasets", "tokenizers")
HYPERPARAMETERS = (
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "weight_decay", "max_grad_norm"),
    *("optim", "adam_beta1", "adam_beta2", "adam_epsilon", "bf16", "fp16", "seed"),
)


def write_card(
    request: StageRequest, args: TrainingArguments, metrics: Mapping[str, float], output_dir: Path
) -> Path:
    """Write the card: base model, data, template, hyper-parameters, metrics, versions, licence."""
    path = output_dir / "README.md"
    path.write_text(card(request, args, metrics), encoding="utf-8")
    return path


def card(request: StageRequest, args: TrainingArguments, metrics: Mapping[str, float]) -> str:
    """The text of the card."""
    facts = request.bundle.facts
    is_adapter = hasattr(request.bundle.module, "peft_config")
    datasets = [loaded.entry.name for loaded in request.train] or ["data given in memory"]
    held_out = [loaded.entry.name for loaded in request.eval]
    licence = facts.metadata.get("general.license") or "that of the base model; read it before sharing"
    head = [
        "---",
        *([f"base_model: {facts.name}"] if facts.source == "hub" else []),
        f"library_name: {'peft' if is_adapter else 'transformers'}",
        "pipeline_tag: text-generation",
        "tags: [tkernel, " + str(request.settings.get("stage") or "sft") + "]",
        "---",
    ]
    about = [
        ("Base model", f"{facts.name} ({facts.model_type})"),
        ("Trained", adapter_words(request)),
        ("Template", request.renderer.name),
        ("Data", ", ".join(datasets)),
        *([("Held out", ", ".join(held_out))] if held_out else []),
        ("Licence", str(licence)),
    ]
    return "\n".join(
        [
            *head,
            "",
            f"# {Path(args.output_dir).name}",
            "",
            f"{facts.name}, fine-tuned with `tk`. `run.lock.json` beside this file replays the run: "
            "`tk run run.lock.json`.",
            "",
            *_table(("", ""), about),
            "",
            "## Hyper-parameters",
            "",
            *_table(
                ("name", "value"),
                [(n, _plain(getattr(args, n))) for n in HYPERPARAMETERS if hasattr(args, n)],
            ),
            "",
            "## Metrics",
            "",
            *_table(
                ("name", "value"), [(n, f"{v:.4g}") for n, v in sorted(metrics.items()) if _is_number(v)]
            ),
            "",
            "## Versions",
            "",
            *_table(("library", "version"), [(n, v) for n in LIBRARIES if (v := _version(n))]),
            "",
        ]
    )


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> list[str]:
    return [f"| {a} | {b} |" for a, b in (head, ("---", "---"), *rows)]


def _plain(value: Any) -> str:
    return str(getattr(value, "value", value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
