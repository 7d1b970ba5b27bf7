"""Throughput and time to the first token of `tk serve` with 1, 8 and 32 clients, in turn, in one run.

Prints the tokens of a second of 8 and 32 clients as multiples of those of one, and the same of a second of the
server's processor time, which other work on the machine changes less. Further arguments are keys of the run:
`--infer_dtype bfloat16`, whose matrix products gain more from rows that are decoded together.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import openai

CLIENTS = (1, 8, 32)
TICKS = os.sysconf("SC_CLK_TCK")


def ask(client: openai.OpenAI, number: int, tokens: int) -> tuple[int, float]:
    """Tokens of one reply, and the seconds to its first piece."""
    question = f"Tell me a long story about the number {number}."
    started, first = time.monotonic(), 0.0
    stream = client.chat.completions.create(
        model="bench",
        messages=[{"role": "user", "content": question}],
        stream=True,
        stream_options={"include_usage": True},
        max_tokens=tokens,
        temperature=1.5,
        top_p=1,
        seed=number,
    )
    used = 0
    for chunk in stream:
        first = first or time.monotonic() - started
        used = chunk.usage.completion_tokens if chunk.usage else used
    return used, first


def processor_seconds(process: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure(client: openai.OpenAI, process: int, clients: int, tokens: int) -> tuple[float, float, float]:
    """Tokens a second, tokens a processor second, and the median time to the first token."""
    answers: list[tuple[int, float]] = []
    threads = [
        threading.Thread(target=lambda n=number: answers.append(ask(client, n, tokens)))
        for number in range(clients)
    ]
    started, used = time.monotonic(), processor_seconds(process)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = sum(count for count, _ in answers)
    busy = processor_seconds(process) - used
    return (
        total / (time.monotonic() - started),
        total / busy,
        statistics.median(first for _, first in answers),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="examples/support.yaml")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options, keys = parser.parse_known_args()
    command = [
        str(Path(sys.executable).with_name("tk")),
        "serve",
        options.config,
        "--port",
        "0",
        "--name",
        "bench",
        *keys,
    ]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = next(found[1] for line in server.stdout if (found := re.match(r"serving .* at (\S+)", line)))
        client = openai.OpenAI(base_url=url, api_key="none", timeout=600)
        ask(client, 0, options.tokens)
        rounds = [
            {clients: measure(client, server.pid, clients, options.tokens) for clients in CLIENTS}
            for _ in range(options.rounds)
        ]
    finally:
        server.terminate()
        server.wait()
    one = {
        clients: [statistics.median(r[clients][k] for r in rounds) for k in range(3)] for clients in CLIENTS
    }
    print("clients   tokens/s   of one client   by processor time   first token, s")
    for clients in CLIENTS:
        rate, busy, first = one[clients]
        print(
            f"{clients:7}   {rate:8.1f}   {rate / one[1][0]:13.1f}   {busy / one[1][1]:17.1f}   {first:14.2f}"
        )


if __name__ == "__main__":
    main()
