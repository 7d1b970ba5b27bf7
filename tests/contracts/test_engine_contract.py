"""The built-in engine keeps the contract."""

from tkernel.testing import EngineContract


class TestHuggingFace(EngineContract):
    plugin = "huggingface"
