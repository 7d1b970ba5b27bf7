"""The sources of the distribution, where it is not installed."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2] / name) for name in ("tk-openai", "tk-openai/tests")]
