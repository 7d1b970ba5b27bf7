"""A model, rows and a YAML file to try things on: `python docs/tiny.py` writes the folder `tiny`.

The model is a random Llama of 300 tokens that trains in a second; it has nothing to say.
"""

from __future__ import annotations

import json
from pathlib import Path

from tkernel.testing.tiny import save_model

YAML = """\
model_name_or_path: tiny/model
dataset: tiny/rows.jsonl
output_dir: tiny/out
overwrite_output_dir: true
max_steps: 2
per_device_train_batch_size: 2
max_new_tokens: 4
do_sample: false
"""


def write(folder: Path) -> None:
    """Write `model/`, `rows.jsonl` and `train.yaml` into `folder`."""
    save_model(folder / "model")
    rows = [{"instruction": f"What is {n} and {n}?", "output": f"It is {2 * n}."} for n in range(1, 9)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    (folder / "train.yaml").write_text(YAML, encoding="utf-8")


if __name__ == "__main__":
    write(Path("tiny"))
