"""`infer_backend: says`: an engine that says the last message of the user, word by word. Not a test.

`delay=0.1 Hello there` waits so many seconds before each word. `stats` is said as the number of streams that run.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass

from tkernel import hookimpl
from tkernel.errors import TkError
from tkernel.types.engine import Delta, Prompt, Sampling, collect


@dataclass(frozen=True)
class Options(Sampling):
    """As any engine's."""


class SaysEngine:
    capacity = 4

    def __init__(self, renderer, options):
        self.renderer, self.options = renderer, options
        self.running = 0
        self._lock = threading.Lock()

    def stream(self, conversations, sampling=None):
        sampling = sampling or self.options
        if getattr(sampling, "grammar", None):
            raise TkError("the engine `says` has no grammars")
        for conversation in conversations:
            if not isinstance(conversation, Prompt):
                self.renderer.prompt_ids(conversation)
        with self._lock:
            self.running += 1
        try:
            for number, conversation in enumerate(conversations):
                raw = isinstance(conversation, Prompt)
                text = conversation.text if raw else conversation.messages[-1].content
                delay, said = re.fullmatch(r"(?:delay=(\S+) )?(.*)", text, re.DOTALL).groups()
                said = str(self.running) if said == "stats" else said
                words = re.findall(r"\S+\s*|\s+", said) or [""]
                for k in range(sampling.n):
                    index = number * sampling.n + k
                    for place, word in enumerate(words[: sampling.max_new_tokens]):
                        time.sleep(float(delay or 0))
                        last = place + 1 == min(len(words), sampling.max_new_tokens)
                        reason = (
                            ("stop" if len(words) <= sampling.max_new_tokens else "length") if last else None
                        )
                        yield Delta(index, word, (place,), reason, (), 3 if last else 0)
        finally:
            with self._lock:
                self.running -= 1

    def reply(self, conversations, sampling=None):
        deltas = self.stream(conversations, sampling)
        return collect(deltas, conversations, (sampling or self.options).n, self.renderer.parse_reply)

    def close(self):
        pass


class Says:
    name, Options = "says", Options

    @hookimpl
    def generate(self, request):
        return SaysEngine(request.renderer, request.options)


ENGINE = Says()
