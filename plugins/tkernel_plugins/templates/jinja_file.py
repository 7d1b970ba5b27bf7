"""A user's own chat template: a Jinja file, read and tried before anything is loaded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tkernel.errors import BrokenPlugin

_TOKEN = re.compile(r"<[|｜]?[\w/:.-]+[|｜]?>|\[/?[A-Z_]+\]")
_QUESTION = "3f9a"
_TOKENIZERS_OWN = ("bos", "eos", "unk", "pad", "sep", "cls", "mask")


def read_jinja(path: Path) -> str:
    """The text of a chat template, which has been tried on a question.

    Raises:
        BrokenPlugin: it is not UTF-8, no Jinja, or does not render a question; the message names the line.
    """
    import jinja2

    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BrokenPlugin(f"{path} is not UTF-8: {error}") from error
    try:
        template = _environment().from_string(text)
    except jinja2.TemplateSyntaxError as error:
        lines = [*text.splitlines(), ""]
        quoted = lines[min(error.lineno, len(lines)) - 1].strip()
        raise BrokenPlugin(f"{path}:{error.lineno}: {error.message}", hint=quoted or None) from error
    variables = {f"{name}_token": f"<{name}>" for name in _TOKENIZERS_OWN}
    parts = [{"type": "text", "text": _QUESTION}]
    failed: Exception | None = None
    for content in (_QUESTION, parts):
        messages = [{"role": "user", "content": content}]
        try:
            if _QUESTION in template.render(messages=messages, add_generation_prompt=True, **variables):
                return text
        except Exception as error:  # a chat template is a program, and may raise anything
            failed = failed or error
    if failed is not None:
        line = line_of(failed)
        where = f"{path}:{line}" if line else str(path)
        raise BrokenPlugin(f"{where}: it cannot render a question: {failed}") from failed
    raise BrokenPlugin(
        f"{path}: it renders a question without what is asked",
        hint="A chat template writes the `messages`: their `role` and `content`.",
    )


def tokens_in(text: str) -> tuple[str, ...]:
    """What looks like special tokens in a template (`<|user|>`, `[INST]`), in order."""
    return tuple(dict.fromkeys(_TOKEN.findall(text)))


def line_of(error: BaseException) -> int | None:
    """The line of a chat template that raised `error`, None if no template did."""
    line, step = None, error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == "<template>":
            line = step.tb_lineno
        step = step.tb_next
    return line


def _environment() -> Any:
    """Jinja with what transformers adds to it for chat templates."""
    import jinja2
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what is learned, and is written as it is."""

        tags = {"generation"}  # noqa: RUF012 (as Extension declares it)

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    environment.filters["tojson"] = lambda value, **words: json.dumps(value, ensure_ascii=False, **words)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda pattern: "1 January 2025"
    return environment
