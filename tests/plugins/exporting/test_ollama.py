"""The Go template of a `Modelfile` says what the renderer says."""

from __future__ import annotations

import re
from importlib.metadata import entry_points

import pytest

from tkernel.testing import tiny
from tkernel.types.conversation import Conversation, Message
from tkernel.types.requests import TemplateRequest
from tkernel_plugins.exporting.ollama import Pieces, go_template, modelfile, pieces_of


def renderer_of(name: str):
    (entry,) = entry_points(group="tkernel.template", name=name)
    return entry.load().render_template(TemplateRequest(name, tiny.make_tokenizer()))


def said(*contents: str, system: str | None = None) -> Conversation:
    roles = ("user", "assistant")
    head = [] if system is None else [Message("system", system)]
    return Conversation((*head, *(Message(roles[n % 2], text) for n, text in enumerate(contents))))


CONVERSATIONS = (
    said("Hi", "Hello"),
    said("Hi", "Hello", "And?", "No."),
    said("Hi", "Hello", system="Be brief."),
    said("a", "b", "c", "d", "e", "f", system="Be {{ brief }}."),
)


@pytest.mark.parametrize(
    "name", ["chatml", "llama2", "llama3", "gemma", "mistral", "phi", "default", "zephyr"]
)
def test_conversations_put_together_from_the_pieces_are_the_template_s(name):
    renderer = renderer_of(name)
    pieces = pieces_of(renderer)
    assert pieces is not None
    for conversation in CONVERSATIONS:
        assert pieces.text(conversation) == renderer.text(conversation)


def run_go(template: str, conversation: Conversation) -> str:
    """As much of Go's text/template as the one that we write needs."""
    tokens = re.findall(r"\{\{-?\s*(`[^`]*`|.*?)\s*\}\}|((?:(?!\{\{).)+)", template, re.DOTALL)
    body = [("act", act) if act else ("text", text) for act, text in tokens]

    def block(start: int) -> tuple[list, int]:
        """Items up to the matching `end`, `if` as branches."""
        branches, items = [(None, [])], start
        current = branches[0][1]
        while items < len(body):
            kind, text = body[items]
            items += 1
            if kind == "act" and text == "end":
                return branches, items
            if kind == "act" and text.startswith("else"):
                condition = text.removeprefix("else").strip().removeprefix("if").strip() or "true"
                branches.append((condition, []))
                current = branches[-1][1]
            elif kind == "act" and text.split()[0] in ("if", "range"):
                inner, items = block(items)
                current.append((text, inner))
            else:
                current.append((kind, text))
        return branches, items

    tree, _ = block(0)
    state = {"first": True}

    def truth(condition: str, message) -> bool:
        if condition == "$first":
            return state["first"]
        if condition == "$.System":
            return bool(conversation.system)
        if condition == "true":
            return True
        role = re.fullmatch(r'eq \.Role "(\w+)"', condition)
        assert role, condition
        return message.role == role[1]

    def write(items, message) -> str:
        out = []
        for head, rest in items:
            if head == "text":
                out.append(rest)
            elif head == "act":
                if rest.startswith("`"):
                    out.append(rest[1:-1])
                elif rest == "$.System":
                    out.append(conversation.system)
                elif rest == ".Content":
                    out.append(message.content)
                else:
                    assert rest in ("$first := true", "$first = false"), rest
                    state["first"] = rest == "$first := true"
            elif head.startswith("range"):
                out += [write(rest[0][1], each) for each in conversation.messages]
            else:
                choices = [(head.removeprefix("if").strip(), rest[0][1]), *rest[1:]]
                out.append(next((write(inner, message) for c, inner in choices if truth(c, message)), ""))
        return "".join(out)

    return write(tree[0][1], None)


@pytest.mark.parametrize("name", ["chatml", "llama2", "llama3"])
def test_the_go_template_renders_what_the_template_does(name):
    renderer = renderer_of(name)
    template = go_template(pieces_of(renderer))
    for conversation in CONVERSATIONS:
        assert run_go(template, conversation) == renderer.text(conversation)


def test_marks_of_go_and_of_the_file_are_kept_as_text():
    pieces = Pieces("{{", "}}", '"""', "", "{{ x }}", "")
    template = go_template(pieces)
    assert '"""' not in re.sub(r"\{\{ `[^`]*` \}\}", "", template)
    assert run_go(template, said("a", "b")) == '"""a{{ x }}b'


def test_stop_words_are_parameters():
    text = modelfile(renderer_of("chatml"), tiny.make_config(vocab_size=300))
    assert 'PARAMETER stop "<|im_end|>"' in text
    assert "FROM ." in text
