"""`finetuning_type: hello` trains the norms of a model and nothing else (arXiv:2312.11420)."""

from dataclasses import dataclass

from tkernel import hookimpl
from tkernel.errors import TkError


@dataclass(frozen=True)
class Options:
    """Options of `finetuning_type: hello`."""

    hello_target: str = "norm"
    """Parameters with this in their name are trained."""


class Adapter:
    name, Options = "hello", Options

    @hookimpl
    def adapt(self, bundle, request):
        module, target = bundle.module.requires_grad_(False), request.options.hello_target
        names = [name for name, _ in module.named_parameters() if target in name]
        if not names:
            known = sorted({name for path, _ in module.named_parameters() for name in path.split(".")})
            raise TkError(f"hello_target: no parameter has {target!r} in its name; parts: {', '.join(known)}")
        trained = [module.get_parameter(name) for name in names]
        if request.new_tokens:
            trained.append(module.get_input_embeddings().weight)
        for parameter in trained if request.trainable else ():
            parameter.data = parameter.data.float()  # an optimiser would round small updates away
            parameter.requires_grad_(True)
        return bundle


ADAPTER = Adapter()
