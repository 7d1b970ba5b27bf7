"""How much a reply says what another one says: BLEU-4 and ROUGE as LLaMA-Factory reports them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec

from tkernel.errors import Problem

PACKAGES: Mapping[str, str] = {"jieba": "jieba", "nltk": "nltk", "rouge_chinese": "rouge-chinese"}
"""Module -> what pip calls it; all are in the extra `metrics`."""

NAMES = ("bleu-4", "rouge-1", "rouge-2", "rouge-l")


def missing_packages(key: str) -> Iterator[Problem]:
    """What `key` needs and is not installed."""
    absent = [name for module, name in PACKAGES.items() if find_spec(module) is None]
    if absent:
        yield Problem(
            f"`{key}` needs {' and '.join(absent)}, not installed",
            key=key,
            hint="Run: pip install 'tkernel[metrics]'",
        )


def similarity(predicted: str, label: str) -> dict[str, float]:
    """Four scores from 0 to 100 of one reply.

    `bleu-4` is over characters, with smoothing 3 of Chen and Cherry (2014). `rouge-1`, `rouge-2` and `rouge-l`
    are F1 over words, which jieba finds in Chinese text and which blanks part elsewhere (Lin, 2004).
    """
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    scores = {name: 100 * value for name, value in _rouge(_words(predicted), _words(label)).items()}
    smoothed = SmoothingFunction().method3
    bleu = sentence_bleu([list(label)], list(predicted), smoothing_function=smoothed) if predicted else 0.0
    return {"bleu-4": 100 * float(bleu), **scores}


def _words(text: str) -> list[str]:
    import jieba

    jieba.setLogLevel(logging.WARNING)
    return " ".join(jieba.cut(text)).split()


def _rouge(predicted: list[str], label: list[str]) -> dict[str, float]:
    from rouge_chinese import Rouge

    if not predicted or not label:
        return dict.fromkeys(NAMES[1:], 0.0)
    with _deep_enough(len(predicted) + len(label)):
        (scores,) = Rouge(metrics=list(NAMES[1:])).get_scores(" ".join(predicted), " ".join(label))
    return {name: float(scores[name]["f"]) for name in NAMES[1:]}


@contextmanager
def _deep_enough(words: int) -> Iterator[None]:
    """The longest common subsequence is found by a function that calls itself once a word."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, words + 1000))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)
