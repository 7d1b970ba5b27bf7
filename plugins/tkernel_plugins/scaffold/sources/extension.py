"""`plugins: [demo]`: says how long training took."""

import time
from dataclasses import dataclass

from tkernel import hookimpl


@dataclass(frozen=True)
class Options:
    """Options of the extension `demo`."""

    demo_unit: str = "s"
    """`s` for seconds, `min` for minutes."""


class Extension:
    """Wraps the training stage: what stands before `yield` runs before it, what follows runs after."""

    name, Options = "demo", Options

    @hookimpl(wrapper=True)
    def train_stage(self, request):
        started = time.monotonic()
        result = yield
        options = request.slots.options("demo")
        seconds = time.monotonic() - started
        print(
            f"training took {seconds / 60 if options.demo_unit == 'min' else seconds:.0f} {options.demo_unit}"
        )
        return result


EXTENSION = Extension()
