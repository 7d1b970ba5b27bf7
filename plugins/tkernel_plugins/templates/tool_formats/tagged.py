"""The parts that formats with tags are made of; text and Jinja come from the same strings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tkernel.types.conversation import ToolCall
from tkernel_plugins.templates.text import Text, join
from tkernel_plugins.templates.tool_formats.format import (
    JINJA_BARE,
    JINJA_OBJECT,
    JINJA_VALUE,
    JINJA_WRAPPED,
    Tool,
    bare,
    dump,
    object_arguments,
    spelled,
    wrapped,
)


@dataclass(frozen=True)
class ToolList:
    """Tools one by one as JSON, between `before` and `after`; `opening` and `closing` stand around each.

    `in_wrapper` tools are in OpenAI's wrapper (`{"type": "function", "function": ...}`).
    """

    before: str
    after: str
    opening: str = ""
    closing: str = ""
    in_wrapper: bool = False

    def describe(self, tools: Sequence[Tool]) -> Text:
        """The text of a list of tools."""
        text = Text(self.before)
        for tool in tools:
            shown = wrapped(tool) if self.in_wrapper else bare(tool)
            text = text + self.opening + Text.of_data(dump(shown)) + self.closing
        return text + self.after

    @property
    def jinja(self) -> str:
        """The same in Jinja."""
        tool = JINJA_WRAPPED if self.in_wrapper else JINJA_BARE
        return f"""\
{{{{- {self.before!r} }}}}
{{%- for tool in tools %}}
    {{{{- {self.opening!r} + {tool} | tojson + {self.closing!r} }}}}
{{%- endfor %}}
{{{{- {self.after!r} }}}}"""


@dataclass(frozen=True)
class CallTags:
    """Calls whose arguments are written one by one: the strings around the name, each key and each value."""

    before_name: str
    after_name: str
    before_key: str
    before_value: str
    after_value: str
    end: str

    def write(self, calls: Sequence[ToolCall]) -> Text:
        """The text of calls, a line break between them."""
        return join("\n", [self._write_one(call) for call in calls])

    def _write_one(self, call: ToolCall) -> Text:
        text = self.before_name + Text.of_data(call.name) + self.after_name
        for key, value in object_arguments(call).items():
            text = text + self.before_key + Text.of_data(key) + self.before_value
            text = text + spelled(value) + self.after_value
        return text + self.end

    @property
    def jinja(self) -> str:
        """The same in Jinja."""
        return f"""\
{{%- for call in calls %}}
    {JINJA_OBJECT}
    {{{{- ('' if loop.first else '\\n') + {self.before_name!r} + call.name + {self.after_name!r} }}}}
    {{%- for key, value in call.arguments.items() %}}
        {{{{- {self.before_key!r} + key + {self.before_value!r} + {JINJA_VALUE} + {self.after_value!r} }}}}
    {{%- endfor %}}
    {{{{- {self.end!r} }}}}
{{%- endfor %}}"""
