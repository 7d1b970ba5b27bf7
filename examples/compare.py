"""Replies to held-out questions before and after a run: `python examples/compare.py examples/support.yaml`."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

from tkernel import Conversation, Message
from tkernel.pipeline import open_engine, open_session
from tkernel.types.engine import Sampling

QUESTIONS = (
    "Introduce yourself, please.",
    "Please give me the telephone number of Tin Heron.",
    "What would I pay for a Drifter tent?",
    "What's your rewards program called?",
    "Can you name the founders of Tin Heron?",
)


def replies(config: str, *overrides: str) -> list[str]:
    """Greedy replies to all questions at once, by the model that `config` and `overrides` describe."""
    session = open_session(config, overrides=overrides)
    engine = open_engine(session)
    conversations = [Conversation((Message("user", question),)) for question in QUESTIONS]
    try:
        return [
            reply.text.strip()
            for reply in engine.reply(conversations, Sampling(do_sample=False, max_new_tokens=48))
        ]
    finally:
        engine.close()


def held_out_losses(output_dir: Path) -> list[float]:
    """Every evaluation of the run in order; the first one is before the first step."""
    rows = [json.loads(line) for line in (output_dir / "trainer_log.jsonl").read_text().splitlines()]
    return [row["eval_loss"] for row in rows if "eval_loss" in row]


def shown(label: str, text: str) -> str:
    """A reply as one indented paragraph."""
    return textwrap.fill(f"{label:8}{' '.join(text.split())}", 100, subsequent_indent=" " * 8)


def main() -> None:
    config = sys.argv[1]
    output_dir = Path(open_session(config).options.output_dir or ".")
    before = replies(config)
    after = replies(config, f"adapter_name_or_path={output_dir}")
    for question, old, new in zip(QUESTIONS, before, after, strict=True):
        print(f"\n{question}\n{shown('before', old)}\n{shown('after', new)}")
    first, *_, last = held_out_losses(output_dir)
    print(f"\nheld-out loss   {first:.3f} before, {last:.3f} after ({100 * (1 - last / first):.0f} % lower)")
    print(f"loss curve      {output_dir / 'training_loss.png'}")
    print("what to try next")
    print(f"  .venv/bin/tk chat {config} --adapter_name_or_path {output_dir}")
    print(f"  .venv/bin/tk plan {config}                         # what ran, and why")
    print(f"  .venv/bin/tk run {config} --learning_rate 1e-4     # override any key")


if __name__ == "__main__":
    main()
