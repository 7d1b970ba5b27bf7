"""The page of differences says what named templates and the models' own write today."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs"
sys.path.insert(0, str(DOCS))

from template_differences import PAGE, filled, rows_of_npm, rows_of_trl  # noqa: E402


def test_the_table_of_trls_templates_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page, "trl", rows_of_trl()) == page, "run: python docs/template_differences.py"


@pytest.mark.slow
def test_the_table_of_the_npm_packages_is_up_to_date(npm_folder: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page, "npm", rows_of_npm(npm_folder)) == page, (
        "run: python docs/template_differences.py FOLDER"
    )


def test_every_row_shows_a_difference_or_that_all_is_equal() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert len(rows) > 20
    for row in rows:
        equal, first = row.split(" | ")[2], row.rsplit(" | ", 1)[1].removesuffix(" |")
        assert (equal == "all") == (not first), row
