"""`template: demo`: a header line for each role, one token that ends every message."""

from tkernel import Conversation, hookimpl
from tkernel.errors import DataError
from tkernel.rendering import SegmentRenderer, exchanges
from tkernel.types.rendering import Segment, Turn

END = Segment("<|end|>", special=True)
JINJA = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def said(role: str, text: str) -> tuple[Segment, ...]:
    """One message of a prompt."""
    return (Segment(f"<|{role}|>", role, special=True), Segment(text, role, typed=((0, len(text)),)), END)


def turns_of(conversation: Conversation) -> list[Turn]:
    """The turns of a conversation; it has no place for tools or reasoning."""
    if conversation.tools or any(m.tool_calls or m.reasoning for m in conversation.messages):
        raise DataError("template 'demo' has no place for tools or reasoning")
    turns = []
    for prompts, reply in exchanges(conversation):
        prompt = tuple(segment for message in prompts for segment in said(message.role, message.content))
        if not turns and conversation.system is not None:
            prompt = (*said("system", conversation.system), *prompt)
        header, text, end = said("assistant", reply.content)
        turns.append(Turn((*prompt, header), (text, end), reply.train, reply.weight))
    return turns


class Template:
    """Adds its tokens to a tokenizer that lacks them."""

    name = "demo"

    @hookimpl
    def render_template(self, request):
        known = request.tokenizer.get_vocab()
        words = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
        added = [word for word in words if word not in known]
        if added:
            request.tokenizer.add_special_tokens({"additional_special_tokens": added})
        return SegmentRenderer(
            "demo",
            request.tokenizer,
            turns_of,
            stop_words=("<|end|>",),
            added_tokens=added,
            jinja=lambda: JINJA,
        )


TEMPLATE = Template()
