"""A template as a Jinja chat template, for `tokenizer.chat_template`.

A conversation that ends with a reply gives the text that training sees; one that waits for a reply gives
the prompt, `add_generation_prompt` or not: the text that opens a reply belongs to the prompt before it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tkernel_plugins.templates.writer import Writer

_JINJA_OF: Mapping[bool | None, str] = {True: "true", False: "false", None: "none"}

_TEMPLATE = """\
{%- macro plain(content) %}
    {%- if content is string %}
        {{- content }}
    {%- else %}
        {%- for part in content or [] %}
            {{- part.text if part.type == 'text' else '<' + part.type + '>' }}
        {%- endfor %}
    {%- endif %}
{%- endmacro %}
{%- macro describe(tools) %}
@DESCRIBE@
{%- endmacro %}
{%- macro write(calls) %}
@WRITE@
{%- endmacro %}
{%- macro said(message) %}
    {%- set reasoning = message.reasoning or message.reasoning_content %}
    {{- @OPENS@ + reasoning + @CLOSES@ if reasoning else '' }}
    {%- set content = plain(message.content) %}
    {{- content }}
    {%- set ended = content.startswith(@OPENS@) and (content + @BREAKS@).endswith(@CLOSES@) %}
    {%- if message.tool_calls and ended and @CLOSES@ not in content %}
        {{- @BREAKS@ }}
    {%- endif %}
{%- endmacro %}
{%- macro without_thoughts(text) %}
    {%- for part in text.split(@OPENS@) %}
        {%- if loop.first %}
            {{- part }}
        {%- elif @CLOSES@ in part %}
            {{- part.split(@CLOSES@, 1)[1] }}
        {%- else %}
            {{- @OPENS@ + part }}
        {%- endif %}
    {%- endfor %}
{%- endmacro %}
{%- set system = namespace(text='') %}
{%- set turns = messages %}
{%- if messages and messages[0].role == 'system' %}
    {%- set system.text = plain(messages[0].content) %}
    {%- set turns = messages[1:] %}
{%- endif %}
{%- set system.text = system.text or @DEFAULT_SYSTEM@ %}
{%- if tools is not defined or not tools %}
    {%- set tools = [] %}
{%- endif %}
{%- set thinking = enable_thinking if enable_thinking is defined else @THINKING@ %}
{%- set waiting = not turns or turns[-1].role != 'assistant' %}
{{- @PREFIX@ }}
{%- set system.text = @SYSTEM_BEFORE@ + system.text + (@TOOLS@ if tools else '') + @SYSTEM_AFTER@ \
if system.text or tools else '' %}
@SYSTEM@
{%- for message in turns %}
    {%- if message.role == 'user' %}
        {{- @USER_BEFORE@ + @FIRST@ + plain(message.content) + @USER_AFTER@ }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or loop.previtem.role != 'tool' %}
            {{- @RESULT_BEFORE@ + @FIRST@ }}
        {%- else %}
            {{- @SEPARATOR@ }}
        {%- endif %}
        {{- plain(message.content) }}
        {{- @RESULT_AFTER@ if loop.last or loop.nextitem.role != 'tool' else '' }}
    {%- elif message.role == 'assistant' %}
        {%- set calls = namespace(all=[]) %}
        {%- for call in message.tool_calls or [] %}
            {%- set calls.all = calls.all + [call.function if call.function is defined else call] %}
        {%- endfor %}
        {%- set text = said(message) %}
@FORGET@
        {%- if calls.all %}
@BEFORE_CALLS@
            {{- @CALL_BEFORE@ + text + write(calls.all) + @CALL_AFTER@ }}
        {%- else %}
            {{- @REPLY_BEFORE@ + text + @REPLY_AFTER@ }}
        {%- endif %}
    {%- else %}
        {{- raise_exception('the role ' + message.role + ' has no place here') }}
    {%- endif %}
{%- endfor %}
@EMPTY_THOUGHT@
"""

_FORGET = """\
        {%- if (waiting and not @PRESERVE@) or thinking is false %}
            {%- set text = without_thoughts(text).lstrip('\\n') %}
        {%- endif %}
        {%- if not waiting or @PRESERVE@ %}
            {%- set spelled = text + write(calls.all) %}
            {{- @EMPTY@ if @OPEN_WORD@ not in spelled and @CLOSE_WORD@ not in spelled else '' }}
        {%- endif %}"""

_NOTHING_BEFORE_CALLS = """\
            {{- raise_exception('there is no place for text before calls') if text.strip() else '' }}"""

_EMPTY_THOUGHT = "{{- @EMPTY@ if waiting and add_generation_prompt and not thinking else '' }}"


def chat_template(writer: Writer) -> str:
    """The Jinja text. Tools, calls and thoughts are written as the template writes them."""
    opens, closes = writer.thought_words
    system_before, system_after = writer.around(writer.system)
    user_before, user_after = writer.around(writer.user)
    result_before, result_after = writer.around(writer.observation)
    reply_before, reply_after = writer.around(writer.assistant)
    call_before, call_after = writer.around(writer.function)
    prefix, _ = writer.around(writer.prefix)
    literals = {
        "DEFAULT_SYSTEM": writer.default_system,
        "PREFIX": prefix,
        "SYSTEM_BEFORE": system_before,
        "SYSTEM_AFTER": system_after,
        "USER_BEFORE": user_before,
        "USER_AFTER": user_after,
        "RESULT_BEFORE": result_before,
        "RESULT_AFTER": result_after,
        "SEPARATOR": writer.result_separator,
        "REPLY_BEFORE": reply_before,
        "REPLY_AFTER": reply_after,
        "CALL_BEFORE": call_before,
        "CALL_AFTER": call_after,
        "OPENS": opens,
        "CLOSES": closes,
        "BREAKS": closes[len(closes.rstrip()) :],
        "OPEN_WORD": opens.strip(),
        "CLOSE_WORD": closes.strip(),
        "EMPTY": writer.empty_thought,
    }
    blocks = {
        "FORGET": _FORGET if writer.reasoning else "",
        "EMPTY_THOUGHT": _EMPTY_THOUGHT if writer.reasoning else "",
        "BEFORE_CALLS": "" if writer.text_before_calls else _NOTHING_BEFORE_CALLS,
        "SYSTEM": "" if writer.system_in_user else "{{- system.text }}",
    }
    values = {
        "DESCRIBE": writer.tools.jinja_tools,
        "WRITE": writer.tools.jinja_calls,
        "TOOLS": "(describe(tools) if system.text else describe(tools).lstrip('\\n'))"
        if writer.strip_tools
        else "describe(tools)",
        "FIRST": "(system.text if loop.first else '')" if writer.system_in_user else "''",
        "THINKING": _JINJA_OF[writer.enable_thinking],
        "PRESERVE": _JINJA_OF[writer.preserve_thinking],
        **{name: _literal(text) for name, text in literals.items()},
    }
    return _substitute(_substitute(_TEMPLATE, blocks), values)


def _literal(text: str) -> str:
    """`text` as a Jinja string."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"


def _substitute(text: str, values: Mapping[str, str]) -> str:
    """`text` with `@NAME@` replaced in one pass, so that nothing inside a value is; other names stay."""
    replaced = re.sub("@([A-Z_]+)@", lambda match: values.get(match[1], match[0]), text)
    return "\n".join(line for line in replaced.split("\n") if line.strip())
