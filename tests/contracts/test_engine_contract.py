"""The built-in engine keeps the contract."""

import pytest

from tkernel.testing import EngineContract
from tkernel.testing.tiny import TINY_CONFIGS, make_bundle


class TestHuggingFace(EngineContract):
    plugin = "huggingface"


@pytest.mark.parametrize("family", TINY_CONFIGS)
def test_every_family_decodes_as_the_reference_loop(family):
    class Family(EngineContract):
        plugin = "huggingface"

        def bundle(self):
            return make_bundle(family)

    Family().test_greedy_equals_the_reference_loop()
    Family().test_batched_equals_single()
