"""The mutants are changed copies of the third party's plugins, which are imported from their sources."""

import sys
from pathlib import Path

THIRD_PARTY = Path(__file__).parents[1] / "third_party"
sys.path[:0] = [str(folder) for folder in sorted(THIRD_PARTY.iterdir()) if folder.is_dir()]
