"""Encoding rows batch by batch, in this process or in several, always with the same result."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tkernel.errors import DataError, TkError
from tkernel.types.dataset import Rejection
from tkernel.types.requests import StageRequest
from tkernel_plugins.data.collection import without_collection
from tkernel_plugins.data.encoding import Encoder, encoder_for
from tkernel_plugins.data.mapped import release
from tkernel_plugins.data.mix import MergedRows
from tkernel_plugins.data.options import PrepareOptions
from tkernel_plugins.data.packing import Packing, pack, packing_of
from tkernel_plugins.data.report import FIRST, Tally
from tkernel_plugins.data.scratch import scratch_folder

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

COUNTING = ("supervised", "dropped", "reason", "detail", "piece")
"""Columns of an encoded batch that are counted and not kept."""

_RELEASE_EVERY = 1000
"""Rows: each of them may have brought in 64 KiB of its file."""
_WITNESSES = 4


@dataclass(frozen=True)
class EncodedBatch:
    """Samples of one batch as they are kept, and what became of the rows of each dataset in it."""

    samples: pa.Table
    tallies: Mapping[int, Tally]
    rows: int
    """Canonical rows that it was made of."""
    filled: frozenset[str] = frozenset()
    """The optional columns that have content."""
    left_over: int = 0
    """Tokens of usable samples that packing left out."""


@dataclass(frozen=True)
class BatchWork:
    """From a batch of canonical rows to what is kept of it: encoded, counted, without the unusable, packed."""

    encoder: Encoder
    packing: Packing | None = None

    def __call__(self, rows: pa.Table, numbers: np.ndarray) -> EncodedBatch:
        """Encode a batch; `numbers` says of which dataset each row is.

        Raises:
            DataError: a row cannot be used, and the encoder is strict.
        """
        import pyarrow.compute as pc

        with without_collection():
            encoded = self.encoder(rows)
        tallies = self._tallies(encoded, numbers)
        usable = pc.is_null(encoded["reason"])
        kept = encoded if pc.all(usable).as_py() else encoded.filter(usable)
        kept = kept.select([name for name in kept.column_names if name not in COUNTING])
        optional = (name for name in self.encoder.optional if name in kept.column_names)
        filled = frozenset(name for name in optional if _sum(pc.list_value_length(kept[name])))
        if self.packing is None:
            return EncodedBatch(kept, tallies, len(numbers), filled)
        packed = pack(kept, self.packing)
        return EncodedBatch(packed, tallies, len(numbers), filled, _tokens(kept) - _tokens(packed))

    def _tallies(self, encoded: pa.Table, numbers: np.ndarray) -> dict[int, Tally]:
        import numpy as np

        if "piece" in encoded.column_names:  # a row may have become several samples
            first = encoded["piece"].to_numpy() == 0
            numbers = numbers[np.cumsum(first) - 1]
        present = np.unique(numbers).tolist()
        if len(present) == 1:
            return {present[0]: self._tally(encoded)}
        return {number: self._tally(encoded.filter(numbers == number)) for number in present}

    def _tally(self, encoded: pa.Table) -> Tally:
        import pyarrow.compute as pc

        usable = pc.is_null(encoded["reason"])
        lengths = [pc.list_value_length(encoded[name]) for name in self.encoder.counted]
        tally = Tally(
            encoded=_sum(usable),
            tokens=sum(map(_sum, lengths)),
            supervised=_sum(encoded["supervised"]),
            truncated=_sum(pc.greater(encoded["dropped"], 0)),
            dropped=_sum(encoded["dropped"]),
        )
        refused = encoded.filter(pc.invert(usable)).select(["origin", "reason", "detail"])
        for count in pc.value_counts(refused["reason"]).to_pylist():
            tally.rejections[count["values"]] = count["counts"]
        for row in refused.slice(0, FIRST).to_pylist():
            reason = f"{row['reason']}: {row['detail']}"
            tally.rejected.append(Rejection(**row["origin"], reason=reason))
        return tally


def work_of(request: StageRequest, rows: str, options: PrepareOptions) -> BatchWork:
    """How the rows of a stage are encoded.

    Raises:
        TkError: options that rows of this kind cannot follow.
    """
    tokenizer = getattr(request.bundle, "tokenizer", None) or getattr(request.renderer, "tokenizer", None)
    packing = packing_of(options, rows, tokenizer)
    encoder = encoder_for(
        rows,
        renderer=request.renderer,
        tokenizer=tokenizer,
        options=options,
        media=request.media,
        strict=request.settings.get("on_bad_row", "error") == "error",
        packing=packing,
    )
    return BatchWork(encoder, packing)


def encode_batches(rows: MergedRows, work: BatchWork, size: int, processes: int) -> Iterator[EncodedBatch]:
    """Every batch of `size` rows in order, encoded by so many processes.

    Raises:
        DataError: of the first batch that has one.
        TkError: a process was killed.
    """
    spans = [slice(start, start + size) for start in range(0, len(rows), size)]
    files = [item["filename"] for part in rows.parts for item in part.cache_files]
    if min(processes, len(spans)) > 1:
        yield from _in_processes(rows, work, spans, min(processes, len(spans)), files)
        return
    for span in spans:
        yield work(*rows.take(span))
        if span.stop // _RELEASE_EVERY > span.start // _RELEASE_EVERY:
            release(files)


def _in_processes(
    rows: MergedRows, work: BatchWork, spans: list[slice], processes: int, files: list[str]
) -> Iterator[EncodedBatch]:
    # Forked, not sent: a renderer is made of functions that cannot be pickled.
    context = multiprocessing.get_context("fork")
    waiting: deque[Future[str]] = deque()
    with _tokenizers_threads_off(), scratch_folder() as folder:
        given = (rows, work, files, folder)
        pool = ProcessPoolExecutor(processes, context, initializer=_start, initargs=given)
        try:
            for span in spans:
                waiting.append(pool.submit(_encode, span))
                if len(waiting) > 2 * processes:
                    yield _received(folder, waiting.popleft())
            while waiting:
                yield _received(folder, waiting.popleft())
        except BrokenProcessPool:
            raise TkError(
                "a process that encodes was killed, perhaps because memory ran out",
                hint="Lower `preprocessing_num_workers` or `preprocessing_batch_size`.",
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def witness(rows: MergedRows, encoder: Encoder) -> str:
    """A digest of a few rows as they are encoded now, which later runs compare with."""
    import numpy as np

    places = np.unique(np.linspace(0, len(rows) - 1, _WITNESSES).astype(int))
    table, _ = rows.take(places)
    samples = encoder(table).to_pylist()
    return hashlib.sha256(repr(samples).encode("utf-8", "surrogatepass")).hexdigest()


_WORKER: dict[str, Any] = {}


def _start(rows: MergedRows, work: BatchWork, files: list[str], folder: Path) -> None:
    _WORKER.update(rows=rows, work=work, files=files, folder=folder)
    parent = multiprocessing.parent_process()
    if parent is not None:  # a worker whose parent was killed would wait for ever, and hold its locks
        sentinel = parent.sentinel
        threading.Thread(target=lambda: (wait([sentinel]), os._exit(1)), daemon=True).start()


def _encode(span: slice) -> str:
    """Encode some rows; the batch goes into a file, and its name to the parent.

    A batch is too large to be sent in one piece, and a pool whose worker is killed half-way through sending
    waits for the rest for ever.
    """
    try:
        batch: EncodedBatch = _WORKER["work"](*_WORKER["rows"].take(span))
    except DataError as error:
        # Its cause may hold what cannot be sent back.
        raise DataError(error.message, hint=error.hint, origin=error.origin) from None
    if span.stop // _RELEASE_EVERY > span.start // _RELEASE_EVERY:
        release(_WORKER["files"])
    name = f"{span.start}.batch"
    with (_WORKER["folder"] / name).open("wb") as file:
        pickle.dump(batch, file, protocol=pickle.HIGHEST_PROTOCOL)
    return name


def _received(folder: Path, future: Future[str]) -> EncodedBatch:
    """The batch that a worker wrote, whose file is not needed any more."""
    path = folder / future.result()
    with path.open("rb") as file:
        batch: EncodedBatch = pickle.load(file)
    path.unlink()
    return batch


@contextmanager
def _tokenizers_threads_off() -> Iterator[None]:
    """`tokenizers` must not use its threads in a forked process, and warns unless it is told."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def _tokens(samples: pa.Table) -> int:
    import pyarrow.compute as pc

    return _sum(pc.list_value_length(samples["input_ids"]))


def _sum(column: Any) -> int:
    import pyarrow.compute as pc

    return int(pc.sum(column).as_py() or 0)
