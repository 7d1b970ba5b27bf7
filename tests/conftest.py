"""What holds for all tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def data_cache() -> Iterator[None]:
    """Prepared data of tests are kept for the tests alone, also by the commands that they start."""
    with tempfile.TemporaryDirectory(prefix="tk-test-cache-") as folder:
        os.environ["TK_CACHE_DIR"] = folder
        yield
        del os.environ["TK_CACHE_DIR"]
