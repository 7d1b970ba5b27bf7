"""The bounded queue, without a server."""

from __future__ import annotations

import asyncio

import pytest

from tkernel_plugins.serving.errors import ApiError
from tkernel_plugins.serving.gate import Gate


def test_places_go_to_those_who_wait_in_order():
    async def scenario():
        gate, order = Gate(1, 3), []

        async def one(number):
            await gate.enter()
            order.append(number)
            gate.leave()

        await gate.enter()
        tasks = [asyncio.create_task(one(number)) for number in range(3)]
        await asyncio.sleep(0)
        assert (gate.running, gate.waiting) == (1, 3)
        with pytest.raises(ApiError, match="are waiting") as refused:
            await gate.enter()
        assert refused.value.status == 429
        gate.leave()
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2]
        assert (gate.running, gate.waiting) == (0, 0)

    asyncio.run(scenario())


@pytest.mark.parametrize("leave_first", [True, False])
def test_who_goes_away_while_a_place_is_given_takes_none_along(leave_first):
    """Cancelled before or after its turn came, in the same round of the loop."""

    async def scenario():
        gate = Gate(1, 3)
        await gate.enter()
        task = asyncio.create_task(gate.enter())
        await asyncio.sleep(0)
        actions = [gate.leave, task.cancel]
        for action in actions if leave_first else reversed(actions):
            action()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (gate.running, gate.waiting) == (0, 0)

    asyncio.run(scenario())
