"""`finetuning_type: demo`: LoRA by peft."""

from dataclasses import dataclass

from tkernel import hookimpl
from tkernel.errors import TkError


@dataclass(frozen=True)
class Options:
    """Options of `finetuning_type: demo`."""

    demo_rank: int = 4
    """Rank of the update."""
    demo_target: str = "q_proj,v_proj"
    """Names of the linear layers, separated by commas."""


class Adapter:
    """Injects, resumes, or loads for inference."""

    name, Options = "demo", Options

    @hookimpl
    def adapt(self, bundle, request):
        import peft
        import torch

        module = bundle.module
        linear = {n.rpartition(".")[2] for n, m in module.named_modules() if isinstance(m, torch.nn.Linear)}
        targets = request.options.demo_target.split(",")
        if unknown := set(targets) - linear:
            raise TkError(f"demo_target: no layer is called {', '.join(unknown)}; there are {sorted(linear)}")
        for folder in request.adapters:
            module = peft.PeftModel.from_pretrained(module, folder, is_trainable=request.trainable)
        if not request.adapters and request.trainable:
            config = peft.LoraConfig(
                r=request.options.demo_rank,
                target_modules=targets,
                task_type="CAUSAL_LM",
                modules_to_save=["embed_tokens"] if request.new_tokens else None,
            )
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(request.seed)
                module = peft.get_peft_model(module, config)
        if not request.trainable:
            module.requires_grad_(False)
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        return bundle.replace(module=module)


ADAPTER = Adapter()
