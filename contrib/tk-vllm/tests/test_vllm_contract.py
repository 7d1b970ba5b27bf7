"""The engine `vllm` keeps the contract: the real vLLM, in the environment that TK_VLLM_ENV names.

A server starts in half a minute on a CPU, so engines on the same model with the same seed share one.
"""

from __future__ import annotations

import os
import re
import urllib.request
from pathlib import Path

import pytest

from tkernel.testing import EngineContract

ENVIRONMENT = os.environ.get("TK_VLLM_ENV")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ENVIRONMENT is None, reason="TK_VLLM_ENV names no environment with vLLM"),
]
KEPT = {}


@pytest.fixture(autouse=True, scope="module")
def engines():
    yield
    while KEPT:
        KEPT.popitem()[1].close()


class Shared:
    """An engine that others use too: closing it does nothing."""

    def __init__(self, engine):
        self.engine = engine
        self.stream, self.reply = engine.stream, engine.reply

    def close(self):
        """Left to the end of the file."""


class TestVllm(EngineContract):
    plugin = "tk_vllm:ENGINE"
    sizes = {"head_dim": 32}  # the smallest that vLLM's attention takes on CPUs

    def options_for(self, folder):
        return {
            "vllm_python": str(Path(str(ENVIRONMENT)) / "bin" / "python"),
            "vllm_enforce_eager": True,
            "vllm_maxlen": 512,
        }

    def engine(self, bundle=None, **options):
        from tkernel.testing.engine_runs import saved

        options.setdefault("seed", 42)
        bundle = bundle or self.bundle()
        key = (saved(bundle).location, *options.items())
        if key not in KEPT:
            KEPT[key] = super().engine(bundle, **options)
        KEPT[key]._remote._asked = 0  # as if it were new: seeds are counted from here
        return Shared(KEPT[key])

    def places(self, engine):
        """What vLLM says of its running and waiting requests."""
        url = f"{engine.engine.server.url}/metrics"
        text = urllib.request.urlopen(url, timeout=10).read().decode()
        found = re.findall(r"^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)$", text, re.MULTILINE)
        return int(sum(map(float, found)))

    def test_closing_the_iterator_frees_its_places(self):
        """As in the suite, with no other server on the machine: beside several, this one's counters come late."""
        while KEPT:
            KEPT.popitem()[1].close()
        super().test_closing_the_iterator_frees_its_places()

    def test_an_engine_can_be_used_again_and_closed_twice(self):
        engine = self.engine().engine
        super().test_an_engine_can_be_used_again_and_closed_twice()
        for key in [key for key, kept in KEPT.items() if kept is engine]:
            del KEPT[key]
        engine.close()
        engine.close()
