"""One thread with the pipeline: requests of all callers join its batch and leave it between two tokens."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import openvino_genai

from tkernel.errors import TkError
from tkernel.types.engine import Delta, TokenLogprob
from tkernel_plugins.engines.reply_row import ReplyRow


@dataclass(eq=False)
class Asked:
    """One reply: its text so far, and how the pipeline is told to draw it."""

    row: ReplyRow
    config: Any
    request: Request
    handle: Any = None


@dataclass(eq=False)
class Request:
    """The replies of one call. `queue` gets their pieces, then None or the error that ended them."""

    replies: list[Asked] = field(default_factory=list)
    queue: SimpleQueue[Delta | BaseException | None] = field(default_factory=SimpleQueue)
    cancelled: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)


class Worker:
    """Steps the pipeline while there is something to reply to; the thread ends when there is not.

    Args:
        pipeline: an `openvino_genai.ContinuousBatchingPipeline`; nobody else uses it.
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self._lock = threading.Lock()
        self._waiting: deque[Request] = deque()
        self._running: list[Asked] = []
        self._numbers = 0
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> int:
        """Replies that are being generated or wait for their turn."""
        with self._lock:
            return len(self._running) + sum(len(request.replies) for request in self._waiting)

    def submit(self, request: Request) -> None:
        """Let the replies of a request join the batch."""
        with self._lock:
            self._waiting.append(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tk-openvino", daemon=True)
                self._thread.start()

    def cancel(self, request: Request) -> None:
        """Free the places of a request, and wait until they are free."""
        request.cancelled.set()
        request.released.wait()

    def end(self, error: BaseException) -> None:
        """End all requests with an error, and the thread."""
        with self._lock:
            requests = {*self._waiting, *(asked.request for asked in self._running)}
            thread = self._thread
        for request in requests:
            request.queue.put(error)
            request.cancelled.set()
        if thread is not None:
            thread.join()

    # -- the thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._admit():
            try:
                self.pipeline.step()
                for asked in list(self._running):
                    self._read(asked)
            except Exception as error:
                self._release({asked.request for asked in self._running}, _explained(error))

    def _admit(self) -> bool:
        """Let go of what was cancelled, and take in what waits; False if there is nothing to do."""
        with self._lock:
            new = list(self._waiting)
            self._waiting.clear()
            self._running += [asked for request in new for asked in request.replies]
        for request in new:
            try:
                for asked in request.replies:
                    self._start(asked)
            except Exception as error:
                self._release({request}, _explained(error))
        self._release({asked.request for asked in self._running if asked.request.cancelled.is_set()}, None)
        with self._lock:
            if self._running or self._waiting or self.pipeline.has_non_finished_requests():
                return True
            self._thread = None
            return False

    def _start(self, asked: Asked) -> None:
        import numpy
        import openvino

        self._numbers += 1
        ids = openvino.Tensor(numpy.array([asked.row.prompt], dtype=numpy.int64))
        asked.handle = self.pipeline.add_request(self._numbers, ids, asked.config)

    def _read(self, asked: Asked) -> None:
        """Give out what the last step made of one reply."""
        while asked.handle.can_read() and not asked.row.done:
            for said in asked.handle.read().values():
                for token, logprob in zip(said.generated_ids, said.generated_log_probs, strict=True):
                    self._take(asked, token, logprob)
        if not asked.row.done and asked.handle.get_status() != openvino_genai.GenerationStatus.RUNNING:
            raise TkError(
                "OpenVINO has no room for the keys and values of a reply", hint="Raise `openvino_cache_size`."
            )
        if asked.row.done:
            asked.handle.cancel()  # it does not know about stop texts
            with self._lock:
                self._running.remove(asked)
            if all(other.row.done for other in asked.request.replies):
                asked.request.queue.put(None)
                asked.request.released.set()

    def _take(self, asked: Asked, token: int, logprob: float) -> None:
        if asked.row.done:
            return
        given = None if asked.row.sampling.logprobs is None else TokenLogprob(token, logprob)
        delta = asked.row.take(token, given)
        if delta is not None:
            asked.request.queue.put(delta)

    def _release(self, requests: set[Request], last: BaseException | None) -> None:
        """Free all places of some requests, and tell them the end."""
        if not requests:
            return
        with self._lock:
            leaving = [asked for asked in self._running if asked.request in requests]
            self._running = [asked for asked in self._running if asked.request not in requests]
        for asked in leaving:
            if asked.handle is not None:
                asked.handle.cancel()
        for request in requests:
            request.queue.put(last)
            request.released.set()


def _explained(error: Exception) -> BaseException:
    if isinstance(error, TkError):
        return error
    lines = [line for line in str(error).splitlines() if line.strip()]
    return TkError(f"OpenVINO failed: {lines[-1] if lines else type(error).__name__}")
