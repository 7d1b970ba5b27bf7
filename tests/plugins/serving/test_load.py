"""Many clients at once: no request is lost, and no stream has anything of another."""

from __future__ import annotations

import asyncio
import time

import openai
import pytest
from serving_kit import SAYS, Server


async def _ask(client: openai.AsyncOpenAI, number: int, delay: float) -> bool:
    """Whether a stream says exactly what its client asked for."""
    text = "".join(f"{number}.{word} " for word in range(10 + number % 7))
    messages = [{"role": "user", "content": f"delay={delay} {text}"}]
    stream = await client.chat.completions.create(model="parrot", messages=messages, stream=True)
    got, reason = "", None
    async for chunk in stream:
        got += chunk.choices[0].delta.content or ""
        reason = chunk.choices[0].finish_reason or reason
    return (got, reason) == (text, "stop")


async def _load(url: str, clients: int, seconds: float, delay: float) -> list[bool]:
    end, answers = time.monotonic() + seconds, []
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600) as client:

        async def one(number: int) -> None:
            while True:
                answers.append(await _ask(client, number, delay))
                if time.monotonic() > end:
                    return

        await asyncio.gather(*(one(number) for number in range(clients)))
    return answers


@pytest.fixture(scope="module")
def wide(folder):
    """A server whose queue holds 256."""
    server = Server(
        *(folder / "serve.yaml", "--name", "parrot", "--plugin", SAYS, "--infer_backend", "says"),
        *("--max_new_tokens", "100"),
    )
    yield server
    server.stop()


def test_forty_clients_of_a_slow_model_get_their_own_streams(wide):
    answers = asyncio.run(_load(wide.url, clients=40, seconds=0, delay=0.005))
    assert answers == [True] * 40


@pytest.mark.slow
def test_two_hundred_clients_for_a_minute_lose_no_request_and_mix_no_streams(wide):
    answers = asyncio.run(_load(wide.url, clients=200, seconds=60, delay=0.01))
    assert len(answers) >= 200
    assert all(answers)
    deadline = time.monotonic() + 30
    while wide.metric("tk_running_requests") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (wide.metric("tk_running_requests"), wide.metric("tk_waiting_requests")) == (0, 0)
