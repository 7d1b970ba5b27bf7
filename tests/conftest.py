"""What holds for all tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no mistake of what is tested: examples have no time to keep to.
settings.register_profile("untimed", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def data_cache() -> Iterator[None]:
    """Prepared data of tests are kept for the tests alone, also by the commands that they start."""
    with tempfile.TemporaryDirectory(prefix="tk-test-cache-") as folder:
        os.environ["TK_CACHE_DIR"] = folder
        yield
        del os.environ["TK_CACHE_DIR"]
