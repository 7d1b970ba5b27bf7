"""The fixture of the kernel's tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributions import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """An importable folder for distributions; its modules are forgotten after the test."""
    folder = tmp_path / "site"
    site = Site(folder)
    sys.path.insert(0, str(folder))
    yield site
    sys.path.remove(str(folder))
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
