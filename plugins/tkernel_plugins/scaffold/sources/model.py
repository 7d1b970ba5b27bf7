"""`model: demo`: a causal language model from a local folder of safetensors."""

from dataclasses import dataclass
from pathlib import Path

from tkernel import ModelBundle, hookimpl
from tkernel.errors import TkError


@dataclass(frozen=True)
class Options:
    """Options of the model plugin `demo`."""

    infer_dtype: str = "auto"
    """Precision for inference: `auto` is that of the files."""


class Model:
    """Knows nothing but transformers' own classes."""

    name, Options = "demo", Options
    default_template = "auto"
    lora_targets = ("q_proj", "k_proj", "v_proj", "o_proj")

    @hookimpl
    def load_model(self, request):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = Path(request.facts.location)
        if not list(folder.glob("*.safetensors")):
            raise TkError(f"{folder} has no safetensors", hint="Convert pickled weights first.")
        kwargs = {"dtype": request.options.infer_dtype, "use_safetensors": True}
        kwargs |= request.slots.take("load_kwargs", {})
        module = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, **kwargs)
        module.train(request.trainable)
        module.requires_grad_(request.role == "policy")
        return ModelBundle(module, AutoTokenizer.from_pretrained(folder), request.facts, role=request.role)


MODEL = Model()
