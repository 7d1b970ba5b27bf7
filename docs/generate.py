"""Write the generated parts of the documentation: `make docs`.

A generated part stands between `<!-- generated: NAME WORD... -->` and `<!-- end -->`; NAME is a key of
`PARTS`, the words are its arguments. `tests/docs` fails where a part is not what this would write.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from generated_parts import PARTS
from source_reading import ROOT

PART = re.compile(r"(<!-- generated: (?P<words>[^>]*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """Every page of the documentation."""
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def filled(text: str) -> str:
    """A page with its generated parts written anew."""

    def part(match: re.Match[str]) -> str:
        name, *words = match["words"].split()
        return f"{match[1]}\n{PARTS[name](*words).strip()}\n\n{match[3]}"

    return PART.sub(part, text)


if __name__ == "__main__":
    for page in pages():
        old = page.read_text(encoding="utf-8")
        new = filled(old)
        if new != old:
            page.write_text(new, encoding="utf-8")
            print(f"wrote {page.relative_to(ROOT)}")
