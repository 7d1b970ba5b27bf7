"""The engine `openvino` keeps the contract, on checkpoints that it converts."""

from __future__ import annotations

import pytest

from tkernel.testing import EngineContract
from tkernel.testing.tiny import make_bundle

pytest.importorskip("openvino_genai", reason="openvino-genai is not installed: make test-openvino")
from tk_openvino.converting import FAMILIES

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TK_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


class TestOpenVino(EngineContract):
    plugin = "tk_openvino:ENGINE"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_converted_family_decodes_as_the_reference_loop(family):
    class Family(EngineContract):
        plugin = "tk_openvino:ENGINE"

        def bundle(self):
            return make_bundle(family)

    Family().test_greedy_equals_the_reference_loop()
    Family().test_batched_equals_single()
