"""A distribution that answers all seven hooks without torch: whole runs of the kernel alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from distributions import Site

TOY = '''
from dataclasses import dataclass, field
from types import SimpleNamespace
from tkernel import ModelBundle, StageResult, hookimpl
from tkernel.rendering import SegmentRenderer, exchanges
from tkernel.types.engine import Delta
from tkernel.types.rendering import Segment, Turn

class Tokenizer:
    """Letters are tokens."""
    all_special_tokens = ["#"]
    eos_token, bos_token, eos_token_id = "#", None, ord("#")
    def __len__(self): return 256
    def encode(self, text, add_special_tokens=False, **_): return [ord(c) % 256 for c in text]
    def decode(self, ids, **_): return "".join(chr(i) for i in ids)
    def convert_tokens_to_ids(self, tokens):
        return ord(tokens) if isinstance(tokens, str) else [ord(t) for t in tokens]
    def get_vocab(self): return {chr(i): i for i in range(256)}

class Module:
    def get_input_embeddings(self): return SimpleNamespace(weight=SimpleNamespace(shape=(256, 1)))

@dataclass(frozen=True)
class ModelOptions:
    """Options."""
    toy_size: int = field(default=1, metadata={"ge": 1})

class Model:
    name, Options = "toy", ModelOptions
    @hookimpl
    def load_model(self, request):
        return ModelBundle(Module(), Tokenizer(), request.facts, role=request.role)

class Adapter:
    name, saves_adapter = "toy", True
    @hookimpl
    def adapt(self, bundle, request):
        bundle.module.adapters = request.adapters
        return bundle

class Whole:
    name = "whole"
    @hookimpl
    def adapt(self, bundle, request):
        bundle.module.saved = {"model_type": "toy"}
        return bundle

class Rows(list):
    column_names = ["text"]

class Dataset:
    name = "text"
    @hookimpl
    def load_dataset(self, request):
        rows = Rows({"text": line} for line in open(request.entry.location).read().splitlines())
        request.report.read = request.report.kept = len(rows)
        return rows

def turns_of(conversation):
    return [Turn(tuple(Segment(m.content) for m in prompts), (Segment(reply.content),))
            for prompts, reply in exchanges(conversation)]

class Template:
    name = "toy"
    @hookimpl
    def render_template(self, request):
        return SegmentRenderer("toy", request.tokenizer, turns_of, stop_words=("#",))

@dataclass(frozen=True)
class StageOptions:
    """Options."""
    toy_steps: int = 1
    toy_mode: str = "plain"
    toy_token: str | None = None
    toy_note: str = field(default="", metadata={"free": True})
    toy_reference: str | None = None
    toy_reference_adapters: tuple[str, ...] = ()

def save(folder, module):
    adapter = not hasattr(module, "saved")
    (folder / ("adapter_config.json" if adapter else "config.json")).write_text('{"model_type": "toy"}')
    (folder / ("adapter_model.safetensors" if adapter else "model.safetensors")).write_text("trained")

class Stage:
    name, Options = "toy", StageOptions
    training_arguments = "tk_toy_arguments:Arguments"
    models = {"reference": "toy_reference"}
    @hookimpl
    def train_stage(self, request):
        if request.options.toy_mode == "fail":
            raise ValueError("no gradient today")
        for callback in request.slots.take("callbacks"):
            callback("step")
        if request.options.toy_mode == "other":
            other = request.load_model("reference")
            said = [other.role, other.facts.name, *getattr(other.module, "adapters", ())]
            said += [d.text for d in request.open_engine(other).stream([])]
            (request.output_dir / "other.txt").write_text(" ".join(said))
        out, module = request.output_dir, request.bundle.module
        count = sum(len(d.rows) for d in request.train)
        (out / "count.txt").write_text(str(count))
        begun = [request.bundle.facts.name, *getattr(module, "adapters", ())]
        (out / "from.txt").write_text(" ".join(begun))
        if request.options.toy_mode == "killed" and not (out / "checkpoint-1").exists():
            (out / "checkpoint-1").mkdir()
            save(out / "checkpoint-1", module)
            raise KeyboardInterrupt
        save(out, module)
        return StageResult(request.bundle, request.output_dir, request.options.toy_steps, {"rows": float(count)})

class Judge(Stage):
    name, produces, models = "judge", "reward", {}

@dataclass(frozen=True)
class LearnOptions(StageOptions):
    """Options."""
    toy_reward: str | None = None
    toy_gain: float = 1.0

class Learn(Stage):
    name, Options, models = "learn", LearnOptions, {"reward": "toy_reward"}
    @hookimpl
    def train_stage(self, request):
        result = Stage.train_stage(self, request)
        judge = request.load_model("reward")
        said = [judge.facts.name, *getattr(judge.module, "adapters", ())]
        (request.output_dir / "judge.txt").write_text(" ".join(said))
        return result

class Engine:
    name = "toy"
    @hookimpl
    def generate(self, request):
        return SimpleNamespace(stream=lambda c, s=None: iter([Delta(0, "hi")]), reply=None, close=lambda: None)

class Loud:
    name = "loud"
    @hookimpl(wrapper=True)
    def train_stage(self, request):
        request.slots.put("callbacks", lambda event: print("loud saw", event), by="loud")
        result = yield
        print("loud: done")
        return result

MODEL, ADAPTER, DATASET, TEMPLATE, STAGE, ENGINE, LOUD = (
    Model(), Adapter(), Dataset(), Template(), Stage(), Engine(), Loud())
WHOLE, JUDGE, LEARN = Whole(), Judge(), Learn()
'''

ARGUMENTS = """
from dataclasses import dataclass

@dataclass
class Arguments:
    max_steps: int = -1
    save_steps: float = 500
    learning_rate: float = 5e-5
    resume_from_checkpoint: str | None = None
"""

ENTRIES = {
    "model": {"toy": "MODEL"},
    "adapter": {"toy": "ADAPTER", "whole": "WHOLE"},
    "dataset": {"toytext": "DATASET"},
    "template": {"toy": "TEMPLATE"},
    "stage": {"toy": "STAGE", "judge": "JUDGE", "learn": "LEARN"},
    "engine": {"toy": "ENGINE"},
    "extension": {"loud": "LOUD"},
}

YAML = """\
model_name_or_path: model
stage: toy
finetuning_type: toy
template: toy
infer_backend: toy
dataset_dir: .
dataset: rows
output_dir: out
toy_steps: 3
"""


class Toy:
    """A folder with a model, data and `run.yaml`, and a site with the toy distribution."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.folder = site, folder
        site.distribution("tk-toy", ENTRIES, TOY, requires=("tkernel>=1,<2",))
        (site.folder / "tk_toy_arguments.py").write_text(ARGUMENTS)
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text('{"model_type": "toy"}')
        (folder / "rows.txt").write_text("one\ntwo\n")
        info = {"rows": {"file_name": "rows.txt", "formatting": "toytext"}}
        (folder / "dataset_info.json").write_text(json.dumps(info))
        (folder / "run.yaml").write_text(YAML)

    def tk(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `tk` in a process of its own."""
        import os

        return subprocess.run(
            [sys.executable, "-m", "tkernel", *words],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.site.folder), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
