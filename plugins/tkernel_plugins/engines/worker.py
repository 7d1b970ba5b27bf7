"""The thread that holds the model: requests join its batch between two steps, and leave it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import torch

from tkernel.types.conversation import Conversation
from tkernel.types.engine import Delta
from tkernel_plugins.engines.adapters_by_name import AdaptersByName
from tkernel_plugins.engines.decode_batch import DecodeBatch, Forward
from tkernel_plugins.engines.reading import Reading
from tkernel_plugins.engines.reply_row import ReplyRow
from tkernel_plugins.engines.whole_replies import WHOLE, generate_whole

PREFILL = 2048
"""Prompt tokens, padding included, that are read together; a longer prompt is read alone."""

PIECE = 256
"""Of them, those that are read between two tokens of the replies that run: these do not wait for a long prompt."""


@dataclass(eq=False)
class Request:
    """One call of `stream`: its rows, and the queue in which their pieces arrive, then None or an error."""

    rows: Sequence[ReplyRow]
    adapter: str | None = None
    conversations: Sequence[Conversation] | None = None
    """Given where transformers' own `generate` is to be used: for pictures, beams, and caches of other kinds."""
    queue: SimpleQueue[Delta | BaseException | None] = field(default_factory=SimpleQueue)
    cancelled: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def sampling(self) -> Any:
        """How its replies are drawn."""
        return self.rows[0].chooser.sampling


class Worker:
    """Decodes the rows of all requests together, one batch for each adapter.

    The thread starts with the first request and ends when there is nothing to do; the model is in eval mode
    meanwhile, and in its own mode again before the last piece is given out.
    """

    def __init__(
        self, module: Any, padding_id: int, adapters: AdaptersByName, max_rows: int, media: Any
    ) -> None:
        self.module = module
        self.adapters = adapters
        self.max_rows = max_rows
        self.media = media
        self.padding_id = padding_id
        self.forward = Forward(module)
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Request, ReplyRow]] = deque()
        self._jobs: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._running: dict[str | None, list[tuple[Request, ReplyRow]]] = {}
        self._batches: dict[str | None, DecodeBatch] = {}
        self._reading: Reading | None = None
        self._joining: list[tuple[Request, ReplyRow]] = []  # whose prompts are being read
        self._out: list[tuple[Request, Delta | BaseException | None]] = []
        self._thread: threading.Thread | None = None

    @property
    def count(self) -> int:
        """Replies that are being generated or wait for a place."""
        return len(self._all())

    def submit(self, request: Request) -> None:
        """Put the rows of a request at the end of the queue."""
        with self._lock:
            self._waiting += [(request, row) for row in request.rows]
            self._start()

    def cancel(self, request: Request) -> None:
        """Free the places of a request, and wait until they are free."""
        request.cancelled.set()
        if threading.current_thread() is not self._thread:
            request.released.wait()

    def call(self, job: Callable[[], Any]) -> Any:
        """What `job` returns, done by the thread between two steps."""
        future: Future[Any] = Future()
        with self._lock:
            self._jobs.append((job, future))
            self._start()
        return future.result()

    def end(self, error: BaseException) -> None:
        """End all requests with an error."""
        if self._has_work():
            self.call(lambda: self._fail({request for request, _ in self._all()}, error))

    # -- the thread --------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="tk-generate", daemon=True)
            self._thread.start()

    def _has_work(self) -> bool:
        with self._lock:
            return bool(self._waiting or self._jobs or self._joining or any(self._running.values()))

    def _run(self) -> None:
        while True:
            with self._lock:
                if not (self._waiting or self._jobs):
                    self._thread = None
                    return
            with _in_eval_mode(self.module), torch.no_grad():
                while self._has_work():
                    try:
                        self._step()
                    except BaseException as error:
                        self._fail({request for request, _ in self._all()}, error)
                    if self._has_work():
                        self._flush()
                self.adapters.use(None)
            self._flush()

    def _flush(self) -> None:
        """Give out what the last step made."""
        out, self._out = self._out, []
        for request, item in out:
            request.queue.put(item)
            if not isinstance(item, Delta):
                request.released.set()

    def _all(self) -> list[tuple[Request, ReplyRow]]:
        with self._lock:
            running = (pair for pairs in self._running.values() for pair in pairs)
            return [*self._waiting, *self._joining, *running]

    def _step(self) -> None:
        while self._jobs:
            job, future = self._jobs.popleft()
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)
        self._release({request for request, _ in self._all() if request.cancelled.is_set()}, None)
        if not self._joining:
            self._admit()
        if self._joining:
            self._read()
        for adapter, pairs in self._running.items():
            if pairs:
                self._decode(adapter, pairs)

    def _admit(self) -> None:
        """Begin to read the prompts of as many waiting rows as there are places."""
        places = self.max_rows - sum(map(len, self._running.values()))
        taken: list[tuple[Request, ReplyRow]] = []
        prompts: dict[int, Sequence[int]] = {}
        with self._lock:
            while self._waiting and len(taken) < places:
                request, row = self._waiting[0]
                if request.conversations is not None:
                    break
                if taken and request.adapter != taken[0][0].adapter:
                    break
                more = {**prompts, id(row.prompt): row.prompt}
                if prompts and len(more) * max(map(len, more.values())) > PREFILL:
                    break
                prompts = more
                taken.append(self._waiting.popleft())
            first = self._waiting[0] if self._waiting and not taken and places == self.max_rows else None
        if first is not None and first[0].conversations is not None:
            self._whole(first[0])
        elif taken:
            self._joining = taken
            self._reading = Reading(self.forward, self.padding_id, list(prompts.values()))

    def _read(self) -> None:
        """Read a piece of the prompts; with the last one their rows join the batch."""
        reading, joining = self._reading, self._joining
        assert reading is not None
        adapter = joining[0][0].adapter
        running = self._running.setdefault(adapter, [])
        try:
            self.adapters.use(adapter)
            logits = reading.step(PIECE if any(self._running.values()) else PREFILL)
            if logits is None:
                return
            place = {id(prompt): number for number, prompt in enumerate(reading.prompts)}
            numbers = [place[id(row.prompt)] for _, row in joining]
            self._joining, self._reading = [], None
            self._choose(joining, logits[numbers])
            staying = [k for k, (_, row) in enumerate(joining) if not row.done]
            if staying:
                batch = self._batches.setdefault(adapter, DecodeBatch(self.forward))
                batch.join(reading.cache, reading.lengths, [numbers[k] for k in staying])
            running += [joining[k] for k in staying]
        except Exception as error:
            self._fail({request for request, _ in joining}, error)

    def _decode(self, adapter: str | None, pairs: list[tuple[Request, ReplyRow]]) -> None:
        batch = self._batches[adapter]
        try:
            self.adapters.use(adapter)
            self._choose(pairs, batch.step([row.last for _, row in pairs]))
            self._keep(adapter, [k for k, (_, row) in enumerate(pairs) if not row.done])
        except Exception as error:
            self._fail({request for request, _ in pairs}, error)

    def _choose(self, pairs: list[tuple[Request, ReplyRow]], logits: torch.Tensor) -> None:
        """The next token of every row. A row that fails ends its own request and no other."""
        best = logits.argmax(-1).tolist() if any(row.chooser.plain for _, row in pairs) else None
        for number, (request, row) in enumerate(pairs):
            if best is not None and row.chooser.plain:
                delta = row.take(best[number])
            else:
                delta = row.take(*row.chooser.choose(logits[number]))
            if delta is not None:
                self._out.append((request, delta))
            if row.done and all(other.done for other in request.rows):
                self._out.append((request, None))

    def _keep(self, adapter: str | None, places: list[int]) -> None:
        pairs = self._running[adapter]
        if len(places) < len(pairs):
            self._batches[adapter].keep(places)
            self._running[adapter] = [pairs[place] for place in places]

    def _release(self, requests: set[Request], last: BaseException | None) -> None:
        """Free all places of some requests, and tell them the end."""
        if not requests:
            return
        with self._lock:
            self._waiting = deque(pair for pair in self._waiting if pair[0] not in requests)
        self._joining = [pair for pair in self._joining if pair[0] not in requests]
        if not self._joining:
            self._reading = None
        for adapter, pairs in self._running.items():
            self._keep(adapter, [k for k, (request, _) in enumerate(pairs) if request not in requests])
        self._out += [(request, last) for request in requests]

    def _fail(self, requests: set[Request], error: BaseException) -> None:
        ended = {request for request, item in self._out if not isinstance(item, Delta)}
        for pairs in self._running.values():
            if any(request in requests for request, _ in pairs):
                # The cache may be half written: what is in it cannot go on.
                requests = requests | {request for request, _ in pairs}
        self._release(requests - ended, error)

    def _whole(self, request: Request) -> None:
        """Some rows of a request by transformers' own `generate`; the others wait meanwhile."""
        with self._lock:
            mine = [row for other, row in self._waiting if other is request][:WHOLE]
            self._waiting = deque(pair for pair in self._waiting if not any(pair[1] is row for row in mine))

        def emit(delta: Delta) -> None:
            if delta.finish_reason is None:
                request.queue.put(delta)
            else:
                self._out.append((request, delta))

        try:
            self.adapters.use(request.adapter)
            conversations = [request.conversations[request.rows.index(row)] for row in mine]  # type: ignore[index]
            generate_whole(
                self.module, mine, conversations, self.media, self.padding_id, emit, request.cancelled
            )
            if all(row.done for row in request.rows):
                self._out.append((request, None))
            elif request.cancelled.is_set():
                self._release({request}, None)
        except Exception as error:
            self._fail({request}, error)


@contextmanager
def _in_eval_mode(module: Any) -> Iterator[None]:
    """Generate in eval mode and give every submodule its own mode back."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
