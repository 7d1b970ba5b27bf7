"""Runs that are small and can be cached: a template with an identity, a tokenizer that can be written down."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_kit import FORMATS

from tkernel.errors import DataError
from tkernel.rendering import SegmentRenderer
from tkernel.testing import tiny
from tkernel.types.bundle import ModelBundle
from tkernel.types.conversation import Conversation
from tkernel.types.dataset import DatasetEntry, DatasetReport, LoadedDataset
from tkernel.types.facts import ModelFacts
from tkernel.types.rendering import Segment, Turn
from tkernel.types.requests import DatasetRequest, StageRequest
from tkernel_plugins.data.options import PrepareOptions, RowOptions
from tkernel_plugins.data.prepare import Prepared, prepare

FACTS = ModelFacts("tiny", "memory", None, "llama")
IDENTITIES = {"template": "tests==1:minimal sha256:0", "template options": "Options()"}


def turns_of(conversation: Conversation) -> list[Turn]:
    """A minimal template; it refuses questions that say so."""
    turns = []
    messages = conversation.turns
    for question, answer in zip(messages[::2], messages[1::2], strict=True):
        if "unrenderable" in question.content:
            raise DataError("this question cannot be rendered")
        prompt, reply = Segment(question.content + "\n"), (Segment(answer.content), Segment("\n"))
        turns.append(Turn((prompt,), reply, trained=answer.train, weight=answer.weight))
    return turns


def rows(count: int, words: int = 3) -> list[dict[str, str]]:
    """Rows of the format `alpaca`, each with a text of its own."""
    return [
        {"instruction": f"Question {n}?", "output": f"Answer {n}" + " word" * (n % words)}
        for n in range(count)
    ]


def loaded(file: Path, *, name: str | None = None, form: str = "alpaca", **given: Any) -> LoadedDataset:
    """The rows of a file, read by a plugin that is known."""
    entry = DatasetEntry(name or file.stem, str(file), formatting=form, **given.pop("entry", {}))
    report = DatasetReport(entry.name)
    options = given.pop("options", RowOptions())
    request = DatasetRequest(entry, report, options=options, identity=f"tests==1:{form}", **given)
    return LoadedDataset(entry, FORMATS[form].load_dataset(request), report)


def request_of(
    *train: LoadedDataset,
    held_out: Sequence[LoadedDataset] = (),
    tokenizer: Any = None,
    turns: Any = turns_of,
    identities: Mapping[str, str] = IDENTITIES,
    seed: int = 42,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> StageRequest:
    """The request of a stage for these datasets."""
    tokenizer = tokenizer or tiny.make_tokenizer()
    return StageRequest(
        bundle=ModelBundle(None, tokenizer, FACTS),
        renderer=SegmentRenderer("minimal", tokenizer, turns),
        train=train,
        eval=held_out,
        options=PrepareOptions(**options),
        identities=identities,
        seed=seed,
        settings=settings or {},
    )


def prepared(*train: LoadedDataset, **given: Any) -> Prepared:
    """What a run with these datasets trains on; see `request_of`."""
    return prepare(request_of(*train, **given))


def digest(samples: Any) -> str:
    """The content of samples."""
    return hashlib.sha256(json.dumps(samples[:], sort_keys=True).encode()).hexdigest()


def main() -> None:
    """`cache_kit.py FILE OPTIONS`: prepare a file in a process of its own and print the digest of the samples."""
    print(digest(prepared(loaded(Path(sys.argv[1])), **json.loads(sys.argv[2])).train), flush=True)


if __name__ == "__main__":
    main()
