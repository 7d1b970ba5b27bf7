"""No built-in plugin of the seven kinds goes without its contract."""

import re
from pathlib import Path

import pytest

from tkernel.hookspecs import KINDS
from tkernel.index import read_index


# The suite of the templates is run on all that the index has.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "template"])
def test_every_object_has_a_suite(kind):
    files = sorted(Path(__file__).parent.glob(f"test_*{kind}_contract.py"))
    source = "".join(file.read_text(encoding="utf-8") for file in files)
    tested = set(re.findall(r'plugin = "(\w+)"', source))
    entries = [e for e in read_index().entries if (e.kind, e.distribution) == (kind, "tkernel")]
    covered = {entry.target for entry in entries if entry.name in tested}
    assert [entry.name for entry in entries if entry.target not in covered] == []
