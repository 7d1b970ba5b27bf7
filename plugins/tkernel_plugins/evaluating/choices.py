"""Answering multiple-choice questions: the letter that the model ranks first after the prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tkernel.errors import TkError
from tkernel.types.bundle import ModelBundle
from tkernel.types.conversation import Conversation, Message
from tkernel.types.rendering import Renderer
from tkernel_plugins.evaluating.questions import LETTERS, Question, Subject


@dataclass(frozen=True)
class Words:
    """What stands around a question; the sentences are those of MMLU (arXiv 2009.03300) and C-Eval (arXiv 2305.08322)."""

    head: str
    answer: str


WORDS: Mapping[str, Words] = {
    "en": Words(
        "The following are multiple choice questions (with answers) about {subject}.\n\n", "\nAnswer:"
    ),
    "zh": Words("以下是中国关于{subject}考试的单项选择题，请选出其中的正确答案。\n\n", "\n答案："),
}


@dataclass
class Answers:
    """The letters that were chosen, by subject, and how many of each category were right."""

    chosen: dict[str, list[str]] = field(default_factory=dict)
    right: dict[str, int] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    """Questions whose answer is known; those of a secret test are not scored."""
    fewer_shots: int = 0
    """Questions before which fewer examples were shown, since the model reads no more tokens."""

    def add(self, subject: Subject, letters: Sequence[str]) -> None:
        """Count the answers to a subject's questions."""
        self.chosen[subject.key] = list(letters)
        for question, letter in zip(subject.questions, letters, strict=False):
            if question.answer:
                for category in (subject.category, "Average"):
                    self.asked[category] = self.asked.get(category, 0) + 1
                    self.right[category] = self.right.get(category, 0) + (letter == question.answer)

    def lines(self) -> list[str]:
        """A line for each category, the average last, in percent."""
        order = sorted(self.asked, key=lambda name: name == "Average")
        return [f"{name:>15}: {100 * self.right[name] / self.asked[name]:.2f}" for name in order]


def conversation(subject: Subject, question: Question, shots: int, words: Words) -> Conversation:
    """Examples as earlier turns, each answered with its letter, then the question."""
    examples = subject.examples[:shots]
    asked = [_asked(each, words) for each in (*examples, question)]
    asked[0] = words.head.format(subject=subject.name) + asked[0]
    messages: list[Message] = []
    for text, example in zip(asked, examples, strict=False):
        messages += [Message("user", text), Message("assistant", example.answer)]
    return Conversation((*messages, Message("user", asked[-1])))


def _asked(question: Question, words: Words) -> str:
    choices = "".join(f"\n{letter}. {text}" for letter, text in question.choices.items())
    return f"{question.text}{choices}{words.answer}"


def answer(
    bundle: ModelBundle,
    renderer: Renderer,
    subjects: Sequence[Subject],
    *,
    n_shot: int = 5,
    lang: str = "en",
    batch_size: int = 4,
    limit: int | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Answers:
    """Choose a letter for every question.

    The choice is the letter whose token has the highest logit where the reply would begin; of a letter that is cut
    into several tokens the last one counts, as in LLaMA-Factory.

    Args:
        limit: only so many questions of each subject.
        advance: called with the number of questions that were answered.

    Raises:
        TkError: a question is longer than the model reads, or two letters are one token.
    """
    letters = [bundle.tokenizer.encode(letter, add_special_tokens=False)[-1] for letter in LETTERS]
    if len(set(letters)) < len(letters):
        raise TkError("the tokenizer has no tokens for the letters A, B, C and D, so none can be chosen")
    longest = getattr(bundle.module.config.get_text_config(), "max_position_embeddings", None)
    answers = Answers()
    for subject in subjects:
        prompts = []
        for question in subject.questions[:limit]:
            ids, shown = _prompt(renderer, subject, question, n_shot, WORDS[lang], longest)
            answers.fewer_shots += shown < min(n_shot, len(subject.examples))
            prompts.append(ids)
        chosen = [""] * len(prompts)
        for batch in _batches(prompts, batch_size):
            scores = _last_logits(bundle, [prompts[number] for number in batch])[:, letters]
            for number, place, row in zip(batch, scores.argmax(-1).tolist(), scores, strict=True):
                offered = subject.questions[number].choices
                best = max(range(len(offered)), key=lambda n: float(row[n])) if len(offered) < 4 else place
                chosen[number] = LETTERS[best]
            advance(len(batch))
        answers.add(subject, chosen)
    return answers


def _prompt(
    renderer: Renderer, subject: Subject, question: Question, shots: int, words: Words, longest: int | None
) -> tuple[list[int], int]:
    """The ids of a prompt with as many examples as the model reads, and how many that are."""
    for shown in range(min(shots, len(subject.examples)), -1, -1):
        ids = renderer.prompt_ids(conversation(subject, question, shown, words))
        if longest is None or len(ids) <= longest:
            return ids, shown
    raise TkError(
        f"a question of {subject.key} has {len(ids)} tokens, and the model reads {longest}",
        hint="Take a model that reads more.",
    )


def _batches(prompts: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """The numbers of all prompts, those of like length together."""
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _last_logits(bundle: ModelBundle, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """The logits (prompt, vocabulary) of what comes after each prompt."""
    device = next(bundle.module.parameters()).device
    width = max(map(len, prompts))
    ids = torch.zeros((len(prompts), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt)
        mask[row, : len(prompt)] = 1
    inputs: dict[str, Any] = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
    with torch.inference_mode():
        logits = bundle.module(**inputs, use_cache=False).logits
    return logits[torch.arange(len(prompts)), mask.sum(-1) - 1].float().cpu()
