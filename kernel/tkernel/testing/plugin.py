"""The pytest plugin of the contract suites; loaded by pytest through the `pytest11` entry point."""
