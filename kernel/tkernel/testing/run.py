"""`tk plugins test KIND:NAME`: a contract suite without a test file."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from tkernel.errors import MissingRequirement, UsageError
from tkernel.testing import CONTRACTS
from tkernel.testing.contract import find_plugin

TEST_FILE = """\
from tkernel.testing.contract import suite_of

TestContract = suite_of({kind!r}, {plugin!r})
"""


def run_contract(kind: str, name: str, arguments: Sequence[str] = ()) -> int:
    """Run the suite of a kind on an installed plugin, by pytest.

    Args:
        kind: `model`, `adapter`, `dataset`, `template`, `media`, `stage` or `engine`.
        name: an entry point's name, `dist:name`, or `pkg.mod:OBJECT`.
        arguments: more arguments for pytest, such as `-x`.

    Returns:
        pytest's exit code: 0 if every check passed, 1 if one failed.

    Raises:
        UsageError: there is no such kind.
        MissingRequirement: pytest is not installed.
        NoProvider, AmbiguousProvider, BrokenPlugin: see `find_plugin`.
    """
    if kind not in CONTRACTS:
        raise UsageError(
            f"there is no contract for {kind!r}", hint=f"Kinds with one: {', '.join(CONTRACTS)}."
        )
    if find_spec("pytest") is None:
        raise MissingRequirement(
            "the contract suites need pytest, which is not installed", hint="pip install 'tkernel[test]'"
        )
    find_plugin(kind, name)
    import pytest

    with tempfile.TemporaryDirectory(prefix="tk-contract-") as folder:
        file = Path(folder) / "test_contract.py"
        file.write_text(TEST_FILE.format(kind=kind, plugin=name))
        options = ["-v", "-p", "no:cacheprovider", f"--rootdir={folder}", *arguments]
        return int(pytest.main([*options, str(file)]))
