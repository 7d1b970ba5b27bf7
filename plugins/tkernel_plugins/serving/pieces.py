"""The pieces of an engine's stream, in the event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

from tkernel.types.conversation import Conversation
from tkernel.types.engine import Delta, Engine, Prompt, Sampling
from tkernel_plugins.serving.gate import Gate

LOG = logging.getLogger("tkernel.serve")


class Pieces:
    """Runs `engine.stream` in a thread of its own while it has a place at the gate.

    Use as an asynchronous context manager: leaving it, for whatever reason, stops the engine's work, and frees
    the place as soon as the engine has stopped. Raises `TimeoutError` after `seconds`, waiting included.
    """

    def __init__(
        self,
        engine: Engine,
        gate: Gate,
        conversations: Sequence[Conversation | Prompt],
        sampling: Sampling,
        seconds: float,
    ) -> None:
        self.engine = engine
        self.gate = gate
        self.asked = (conversations, sampling)
        self._items: asyncio.Queue[Delta | BaseException | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + seconds
        self._stopped = threading.Event()
        self._stream: Any = None
        self._thread: threading.Thread | None = None

    async def __aenter__(self) -> Pieces:
        async with asyncio.timeout_at(self._deadline):
            await self.gate.enter()
        self._thread = threading.Thread(target=self._work, name="tk-serve", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        # In a thread: the engine may take a moment, and a client that went away leaves nobody to wait for it.
        threading.Thread(target=self._stop, name="tk-serve-stop", daemon=True).start()

    async def __aiter__(self) -> AsyncIterator[Delta]:
        while (item := await self._next()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    async def _next(self) -> Delta | BaseException | None:
        # Each wait has the limit of its own: the next one may be in another task.
        async with asyncio.timeout_at(self._deadline):
            return await self._items.get()

    def _work(self) -> None:
        end: BaseException | None = None
        try:
            self._stream = self.engine.stream(*self.asked)
            for delta in self._stream:
                if self._stopped.is_set():
                    break
                self._tell(delta)
        except BaseException as error:
            end = error
        self._tell(end)

    def _tell(self, item: Delta | BaseException | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)
        except RuntimeError:
            LOG.debug("the server has ended before a reply did")

    def _stop(self) -> None:
        self._stopped.set()
        assert self._thread is not None
        close = getattr(self._stream, "close", None)
        if close is not None and self._thread.is_alive():
            try:
                close()
            except ValueError:
                LOG.debug("a generator that is running ends with its next piece")
        self._thread.join()
        try:
            self._loop.call_soon_threadsafe(self.gate.leave)
        except RuntimeError:
            LOG.debug("the server has ended before a place was free")
