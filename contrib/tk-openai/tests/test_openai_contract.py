"""The engine `openai` keeps the contract against `tk serve`: real processes, real sockets."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

import pytest
from serving import Served

from tkernel.testing import EngineContract

pytestmark = pytest.mark.slow
SERVERS: dict[Path, Served] = {}


@pytest.fixture(autouse=True, scope="module")
def servers():
    yield
    while SERVERS:
        SERVERS.popitem()[1].close()


class TestOpenAI(EngineContract):
    plugin = "tk_openai:ENGINE"
    cannot = {
        "token_ids": "`tk serve` gives texts, as OpenAI's protocol has it: the ids of a reply are those of its text"
    }

    def options_for(self, folder):
        if folder not in SERVERS:
            settings = {"model_name_or_path": str(folder), "template": "chatml", "infer_dtype": "float32"}
            SERVERS[folder] = Served(folder, **settings)
        return {"openai_base_url": SERVERS[folder].address}

    def places(self, engine):
        """What the server says of its running requests."""
        url = str(engine.client.base_url).replace("/v1/", "/metrics")
        text = urllib.request.urlopen(url, timeout=10).read().decode()
        return int(float(re.search(r"^tk_\w*running\S* (\S+)$", text, re.MULTILINE)[1]))
