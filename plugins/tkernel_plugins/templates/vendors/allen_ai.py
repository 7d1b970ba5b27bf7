"""The template of the Allen Institute for AI's OLMo."""

from __future__ import annotations

from tkernel_plugins.templates.slots import EOS
from tkernel_plugins.templates.template import Template

OLMO = Template(name="olmo", prefix=(EOS,), user=("<|user|>\n{{content}}<|assistant|>\n",))
