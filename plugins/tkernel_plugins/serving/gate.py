"""A bounded queue before the engine."""

from __future__ import annotations

import asyncio
from collections import deque

from tkernel_plugins.serving.errors import ApiError


class Gate:
    """Lets `places` requests in at a time, `queue` more wait in the order in which they came.

    Used by the event loop's thread alone.
    """

    def __init__(self, places: int, queue: int) -> None:
        self.places = places
        self.queue = queue
        self.running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    async def enter(self) -> None:
        """Wait for a place; whoever gets one calls `leave` later.

        Raises:
            ApiError: 429, the queue is full.
        """
        if self.running < self.places:
            self.running += 1
            return
        if len(self._waiting) >= self.queue:
            raise ApiError(
                429,
                f"{self.running} requests are running and {self.waiting} are waiting; try again later",
                code="queue_full",
                headers={"Retry-After": "1"},
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.leave()  # its turn came while it went away
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise

    def leave(self) -> None:
        """Give the place back, to the next one that waits."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1
