"""The seven hooks.

Each is called once per run (or once per dataset, adapter or stage) with one frozen request, and
answered by exactly one *provider*, which the kernel chooses before the call (`tkernel.choose`).
What a hook returns does the work: inner loops never pass through pluggy.

A provider is an entry point of group `tkernel.<kind>` whose object has one hookimpl::

    from tkernel import hookimpl

    class Mine:
        name = "mine"

        @hookimpl
        def render_template(self, request):
            ...

Extensions (group `tkernel.extension`) wrap any of the hooks with `@hookimpl(wrapper=True)`. They may
fill the request's `slots` and look at the result; they may not change its type or swallow an error.

A plugin object may have a plain method `check(request)` (`tkernel.types.check.CheckRequest`). It is called
while a run is planned, before torch or anything like it is imported, and yields a `tkernel.errors.Problem`
for everything that is wrong and can be known then: values that contradict each other, a package that is not
installed, a folder that is not there. A problem's `key` gives it its `file:line`; all problems of a run are
told at once::

    def check(self, request):
        if request.options.my_rank > 64 and not request.arguments.get("bf16"):
            yield Problem("`my_rank` above 64 needs `bf16`", key="my_rank", hint="Add `bf16: true`.")

For all hooks: returning None, or a value of another type than the one stated, is an error of the
provider (`ProviderMisbehaved`), raised before any extension sees it. A provider that cannot do what
it is asked raises a `TkError` that says what to do instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pluggy

from tkernel.types.bundle import ModelBundle
from tkernel.types.engine import Engine
from tkernel.types.media import MediaProcessor
from tkernel.types.rendering import Renderer
from tkernel.types.requests import (
    AdapterRequest,
    DatasetRequest,
    EngineRequest,
    MediaRequest,
    ModelRequest,
    StageRequest,
    TemplateRequest,
)
from tkernel.types.stage import StageResult

if TYPE_CHECKING:
    import datasets

PROJECT = "tkernel"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

KINDS: Mapping[str, str] = {
    "model": "load_model",
    "adapter": "adapt",
    "dataset": "load_dataset",
    "template": "render_template",
    "media": "process_media",
    "stage": "train_stage",
    "engine": "generate",
}
"""Kind of plugin -> the hook that it answers."""


@hookspec(firstresult=True)
def load_model(request: ModelRequest) -> ModelBundle | None:
    """Load weights, tokenizer and, for models with media, the processor.

    Called once for the policy, and once more for each reference, reward or teacher model
    (`request.role`). The plugin is named after the `model_type` that it serves; `huggingface` is
    the default for every other one.

    Static facts of the plugin object: `default_template` (used when the model brings no chat
    template of its own), `media` (name of its media processor), `lora_targets` (names of its linear
    layers, for `lora_target: all`).

    Returns:
        A bundle whose `module` is in the dtype that options and training arguments ask for and on
        the device they ask for, in train mode if `request.trainable`.

    Raises:
        TkError: files missing, pickled weights without permission, remote code without permission.

    Example::

        @hookimpl
        def load_model(self, request):
            from transformers import AutoModelForCausalLM, AutoTokenizer
            path = request.facts.location
            kwargs = request.slots.take("load_kwargs", {})
            return ModelBundle(
                module=AutoModelForCausalLM.from_pretrained(path, **kwargs),
                tokenizer=AutoTokenizer.from_pretrained(path),
                facts=request.facts, role=request.role,
            )
    """


@hookspec(firstresult=True)
def adapt(bundle: ModelBundle, request: AdapterRequest) -> ModelBundle | None:
    """Decide what is trained: freeze, unfreeze, inject adapters, load those of an earlier run.

    Called once per adapter step, after `load_model` and `render_template`. `finetuning_type` names
    the plugin. With `request.trainable` False it loads `request.adapters` for inference.

    Static fact of the plugin object: `saves_adapter` (what a stage saves is an adapter on the model, with which
    the next stage of a chain goes on as `adapter_name_or_path`; without it, a whole model).

    Returns:
        The bundle with its module changed. Before any training step the module computes what it
        computed before, unless an adapter of an earlier run was loaded. What is trained is held in float32,
        also where the model was loaded in sixteen bits, unless an option says otherwise (`pure_bf16`).

    Raises:
        TkError: a target that matches no module; the message lists what could match.

    Example::

        @hookimpl
        def adapt(self, bundle, request):
            bundle.module.requires_grad_(True)
            return bundle
    """


@hookspec(firstresult=True)
def load_dataset(request: DatasetRequest) -> datasets.Dataset | datasets.IterableDataset | None:
    """Read one dataset entry into canonical rows.

    Called once per entry of `dataset` and `eval_dataset`. The plugin is named by the entry's
    `formatting`; where a path or URL is given without one, by the columns of its first row: a format
    registers those that it knows as further names, `messages` or `prompt+completion`.

    Returns:
        Rows with the columns of their kind, and `origin` (`file`, `row` from 0, `line` from 1 or None):
        *text* `text` · *supervised* `messages`, `tools` · *preference* `messages`, `chosen`, `rejected`
        (each a list of messages) · *feedback* `messages`, `completion`, `label` · *prompt* `messages`.
        `messages` are dicts with `role`, `content`, `tool_calls`, `reasoning`, `train`, `weight`
        (`tkernel.types.conversation.message_to_dict`), `tools` is JSON text; media are in `images`,
        `videos`, `audios`.

    Raises:
        DataError: unreadable file, missing columns, or a bad row while `on_bad_row` is `error`. With
        `drop`, bad rows are counted in `request.report`.

    Example::

        @hookimpl
        def load_dataset(self, request):
            import datasets
            rows = [{"text": line} for line in open(request.entry.location)]
            request.report.read = request.report.kept = len(rows)
            return datasets.Dataset.from_list(rows)
    """


@hookspec(firstresult=True)
def render_template(request: TemplateRequest) -> Renderer | None:
    """Make the renderer of conversations for `request.tokenizer`.

    Called once per run. `template` names the plugin; without it, the model's own chat template is
    used (`auto`).

    Returns:
        A renderer: conversation -> turns of typed segments -> ids, labels, spans; prompt ids; stop
        ids; reply parser; Jinja text. `tkernel.rendering.SegmentRenderer` is one that needs only a
        function from a conversation to turns.

    Raises:
        TkError: the tokenizer lacks what the template needs (no chat template for `auto`).

    Example::

        @hookimpl
        def render_template(self, request):
            return SegmentRenderer("mine", request.tokenizer, turns_of, stop_words=("<|end|>",))
    """


@hookspec(firstresult=True)
def process_media(request: MediaRequest) -> MediaProcessor | None:
    """Make the processor of images, video and audio for this model.

    Called once per run if the model has a media part. The model plugin names it (`media`).

    Returns:
        A processor that expands placeholders before encoding (reading sizes, not pixels) and
        computes features in the collator: as many placeholder tokens as feature rows.

    Raises:
        TkError: the model has no processor. `expand` raises `DataError` for a sample whose
        placeholders and media differ.

    Example::

        @hookimpl
        def process_media(self, request):
            return LlavaMedia(request.bundle.processor, request.media_dir)
    """


@hookspec(firstresult=True)
def train_stage(request: StageRequest) -> StageResult | None:
    """Prepare the data, train, evaluate, save.

    Called once per stage; `stage` names the plugin. Static facts of the plugin object: `rows` (the
    kind of rows it needs), `training_arguments` (`module:Class` of the dataclass whose fields are
    its training arguments, read from source without importing it), `models` (role -> the key of its
    options that names a further model, `{"reference": "ref_model"}`; adapters on it are those of
    `ref_model_adapters`, and a folder that holds an adapter is one on the run's own model). Such a model
    is found while planning and loaded by `request.load_model("reference")`; `produces` (the role of what it
    trains, `reward`: in a chain it goes to the stages whose `models` have that role, and not to the policy).

    Returns:
        Metrics, the folder of the result, and the trained bundle.

    Raises:
        TkError: before any data is prepared for everything that can be known then.

    Example::

        @hookimpl
        def train_stage(self, request):
            from transformers import Trainer, TrainingArguments
            from my_data import encode
            arguments = TrainingArguments(output_dir=str(request.output_dir), **request.arguments)
            callbacks = request.slots.take("callbacks")
            trainer = Trainer(request.bundle.module, arguments, train_dataset=encode(request),
                              callbacks=callbacks)
            metrics = trainer.train().metrics
            return StageResult(request.bundle, request.output_dir, trainer.state.global_step, metrics)
    """


@hookspec(firstresult=True)
def generate(request: EngineRequest) -> Engine | None:
    """Start an engine that streams replies for many conversations at once.

    Called once per session, with a bundle in memory or with the facts of a model to load
    (`infer_backend` names the plugin).

    Returns:
        The engine. Greedy decoding in fp32 equals the reference loop token by token.

    Raises:
        TkError: the engine's library or device is missing.

    Example::

        @hookimpl
        def generate(self, request):
            return MyEngine(request.bundle, request.renderer, request.options)
    """


RESULTS: Mapping[str, tuple[str, ...]] = {
    "load_model": ("module", "tokenizer", "facts", "replace"),
    "adapt": ("module", "tokenizer", "facts", "replace"),
    "load_dataset": ("__iter__", "column_names"),
    "render_template": ("turns", "encode", "prompt_ids", "parse_reply", "stop_ids"),
    "process_media": ("expand", "collate"),
    "train_stage": ("bundle", "metrics"),
    "generate": ("stream", "reply", "close"),
}
"""What the result of a hook must have; the kernel checks it after every call."""


def missing_attributes(hook: str, result: Any) -> list[str]:
    """Attributes that `result` lacks to be a result of `hook`."""
    return [name for name in RESULTS[hook] if not hasattr(result, name)]
