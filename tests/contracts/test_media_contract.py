"""The built-in media processor keeps the contract."""

from tkernel.testing import MediaContract


class TestLlava(MediaContract):
    plugin = "llava"
