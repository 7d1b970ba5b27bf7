from tkernel.testing import AdapterContract


class TestHello(AdapterContract):
    plugin = "hello"
