"""What tests need that compare with TRL's own losses."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from packaging.version import Version

like_trl = pytest.mark.skipif(
    Version(version("trl")) < Version("1.16"), reason="calls private methods of TRL as they are since 1.16"
)
