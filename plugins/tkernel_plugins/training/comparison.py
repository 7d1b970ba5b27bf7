"""Whether a named template writes what the model's own chat template writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tkernel.types.conversation import Conversation, Message
from tkernel.types.rendering import Renderer


@dataclass(frozen=True)
class Difference:
    """The first place where the two texts of a conversation differ.

    `position` counts characters; `ours` and `theirs` are whole texts, `theirs` None where the model's
    template refuses the conversation.
    """

    conversation: str
    position: int
    ours: str
    theirs: str | None

    def __str__(self) -> str:
        if self.theirs is None:
            return f"the model's chat template refuses {self.conversation}"
        start = max(self.position - 20, 0)
        ours, theirs = (repr(text[start : self.position + 40]) for text in (self.ours, self.theirs))
        return (
            f"{self.conversation}, from character {start}:\n  the template  {ours}\n  the model's   {theirs}"
        )


_QUESTION = Message("user", "What is the capital of France?")
_REPLY = Message("assistant", "Paris.")
_CONVERSATIONS = (
    ("a question", (_QUESTION,)),
    ("a question with a system prompt", (Message("system", "Answer in one word."), _QUESTION)),
    ("a question and its reply", (_QUESTION, _REPLY)),
    ("a second question", (_QUESTION, _REPLY, Message("user", "And of Italy?"))),
)


def first_difference(renderer: Renderer, tokenizer: Any) -> Difference | None:
    """The first difference between `renderer` and the chat template of `tokenizer`.

    Prompts are compared, and a reply to a first question. None if they agree, or if the tokenizer has no
    chat template.
    """
    if not tokenizer.chat_template:
        return None
    import jinja2

    for name, messages in _CONVERSATIONS:
        conversation = Conversation(messages)
        if messages[-1].role == "assistant":
            ours = renderer.text(conversation)
        else:
            ours = tokenizer.decode(
                renderer.prompt_ids(conversation),
                skip_special_tokens=False,
                clean_up_tokenization_spaces=False,
            )
        dicts = [{"role": message.role, "content": message.content} for message in messages]
        try:
            theirs = tokenizer.apply_chat_template(
                dicts, tokenize=False, add_generation_prompt=messages[-1].role != "assistant"
            )
        except (jinja2.TemplateError, TypeError):
            return Difference(name, 0, ours, None)
        if ours != theirs:
            shared = zip(ours, theirs, strict=False)
            position = next((i for i, (a, b) in enumerate(shared) if a != b), min(len(ours), len(theirs)))
            return Difference(name, position, ours, theirs)
    return None
