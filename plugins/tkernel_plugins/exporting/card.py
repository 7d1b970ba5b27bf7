"""The model card of an export, `README.md`."""

from __future__ import annotations

from pathlib import Path

from tkernel.lock import installed_versions
from tkernel.pipeline import Session
from tkernel_plugins.exporting.folder import LOCK
from tkernel_plugins.exporting.made import Made

LIBRARIES = ("tkernel", "torch", "transformers", "peft", "tokenizers", "safetensors")


def write_card(folder: Path, session: Session, template: str, task: str, made: Made) -> None:
    """Write what the model was made of, with what, and how near it is; `task` is the hub's word for what it does."""
    facts = session.facts
    licence = facts.metadata.get("general.license") or "that of the base model; read it before sharing"
    rows = [
        ("Base model", f"{facts.name} ({facts.model_type})"),
        ("Adapters merged", ", ".join(session.options.adapter_name_or_path) or "none"),
        ("Template", template),
        ("Precision", made.precision),
        ("Compared with the unmerged model", str(made.found) if made.found is not None else "no"),
        ("Licence", str(licence)),
        ("Versions", ", ".join(f"{n} {v}" for n, v in installed_versions(LIBRARIES).items())),
    ]
    lines = [
        "---",
        *([f"base_model: {facts.name}"] if facts.source == "hub" else []),
        "library_name: transformers",
        f"pipeline_tag: {task}",
        "tags: [tkernel]",
        "---",
        "",
        f"# {Path(str(session.settings.get('export_dir'))).name}",
        "",
        f"Exported with `tk export`. `{LOCK}` has the configuration, the versions and the content hashes of all "
        "that it was made of.",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in rows),
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")
