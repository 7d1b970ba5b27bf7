"""The engine behind `infer_backend: openvino`."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import openvino_genai

from tk_openvino import CANNOT, Options
from tk_openvino.weights import weights_of
from tk_openvino.worker import Asked, Request, Worker
from tkernel.errors import DataError, TkError
from tkernel.types.conversation import Conversation
from tkernel.types.engine import Delta, Prompt, Reply, Sampling, collect
from tkernel.types.requests import EngineRequest
from tkernel_plugins.engines.reply_row import ReplyRow

PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


class OpenVinoEngine:
    """Implements `tkernel.types.engine.Engine` with a continuous-batching pipeline in this process.

    In float32 greedy replies equal those of transformers token by token, whatever else is in the batch. Every reply draws
    from a generator of its own.
    """

    def __init__(self, request: EngineRequest, options: Options) -> None:
        assert request.renderer is not None
        assert request.bundle is not None
        assert request.facts is not None
        self.renderer = request.renderer
        self.tokenizer = request.bundle.tokenizer
        self.options = options
        self.context = int(request.facts.config.get("max_position_embeddings") or 2**31)
        self._drawn = random.Random(request.seed)
        self._lock = threading.Lock()
        self._worker: Worker | None = Worker(_pipeline(request, options))

    @property
    def running(self) -> int:
        """Replies that are being generated."""
        return self._open().running

    def stream(
        self, conversations: Sequence[Conversation | Prompt], sampling: Sampling | None = None
    ) -> Iterator[Delta]:
        """See `Engine.stream`. The iterator may be closed by any thread.

        Raises:
            DataError: a prompt without tokens, or one that leaves no room for a reply.
            TkError: the engine is closed, or cannot do what is asked for; the message has the key.
        """
        worker = self._open()
        sampling = sampling or self.options
        self._check(conversations, sampling)
        request = Request()
        for place, conversation in enumerate(conversations):
            with self._lock:  # tokenizers are changed while they encode
                prompt = self._prompt_ids(conversation)
            limit = self._room(len(prompt), sampling)
            for k in range(sampling.n):
                index = place * sampling.n + k
                row = ReplyRow(index, prompt, limit, sampling, self.tokenizer, self.renderer.stop_ids)
                request.replies.append(Asked(row, self._config(sampling, limit, index), request))
        return _Stream(worker, request)

    def reply(
        self, conversations: Sequence[Conversation | Prompt], sampling: Sampling | None = None
    ) -> list[Reply]:
        """See `Engine.reply`."""
        sampling = sampling or self.options
        deltas = self.stream(conversations, sampling)
        return collect(deltas, conversations, sampling.n, self.renderer.parse_reply)

    def close(self) -> None:
        """End what runs, and let go of the model; safe to call twice."""
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.end(TkError("this engine was closed while it replied"))

    # -- from conversations to requests --------------------------------------------------------------

    def _open(self) -> Worker:
        if self._worker is None:
            raise TkError("this engine is closed", hint="Open another one.")
        return self._worker

    def _check(self, conversations: Sequence[Conversation | Prompt], sampling: Sampling) -> None:
        asked = {
            "num_beams": sampling.num_beams > 1,
            "logprobs": bool(sampling.logprobs),
            "grammar": getattr(sampling, "grammar", None) is not None,
            "adapter": getattr(sampling, "adapter", None) is not None,
        }
        for key in (key for key, wanted in asked.items() if wanted):
            why = CANNOT.get(key, "its adapters are merged when it starts")
            raise TkError(f"the engine `openvino` cannot do `{key}`: {why}", hint="`huggingface` can.")
        if any(isinstance(c, Conversation) and (c.images or c.videos or c.audios) for c in conversations):
            raise TkError("the engine `openvino` takes text alone", hint="Set `infer_backend: huggingface`.")

    def _prompt_ids(self, conversation: Conversation | Prompt) -> list[int]:
        if isinstance(conversation, Conversation):
            return list(self.renderer.prompt_ids(conversation))
        return list(conversation.ids or self.tokenizer(conversation.text).input_ids)

    def _room(self, prompt: int, sampling: Sampling) -> int:
        """How many tokens the reply to a prompt of so many may have."""
        if prompt == 0:
            raise DataError("the prompt has no tokens")
        if prompt + 1 > self.context:
            raise DataError(
                f"the prompt has {prompt:,} tokens and the model's context is {self.context:,}",
                hint="Shorten the conversation (`/clear` in `tk chat`).",
            )
        longest = getattr(sampling, "max_length", self.options.max_length)
        return min(sampling.max_new_tokens or max(longest - prompt, 1), self.context - prompt)

    def _config(self, sampling: Sampling, limit: int, index: int) -> Any:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = limit
        config.apply_chat_template = False
        config.repetition_penalty = sampling.repetition_penalty
        config.logprobs = 0 if sampling.logprobs is None else 1
        stops = set(self.renderer.stop_ids)
        # One id must be named as the end, or the pipeline takes the one that it reads in the model's files.
        config.set_eos_token_id(min(stops, default=0))
        config.stop_token_ids = stops or {0}
        config.ignore_eos = not stops
        config.do_sample = sampling.do_sample and sampling.temperature > 0
        if config.do_sample:
            config.temperature, config.top_p = sampling.temperature, sampling.top_p
            if sampling.top_k:
                config.top_k = sampling.top_k
            config.rng_seed = self._seed(sampling, index)
        return config

    def _seed(self, sampling: Sampling, index: int) -> int:
        """That of the request and the number of the reply, else the engine's next; 32 bits, as its generator takes."""
        given = getattr(sampling, "seed", None)
        if given is not None:
            return int(given + index) % 2**32
        with self._lock:
            return self._drawn.getrandbits(32)


class _Stream:
    """The pieces of one call. Work starts with the first `next`; `close` ends it and frees its places."""

    def __init__(self, worker: Worker, request: Request) -> None:
        self._worker = worker
        self._request = request
        self._started = False
        self._ended = not request.replies

    def __iter__(self) -> _Stream:
        return self

    def __next__(self) -> Delta:
        if self._ended:
            raise StopIteration
        if not self._started:
            self._started = True
            self._worker.submit(self._request)
        item = self._request.queue.get()
        if isinstance(item, Delta):
            return item
        self._ended = True
        if item is not None:
            raise item
        raise StopIteration

    def close(self) -> None:
        """Stop, and wait until the places are free. Safe to call twice, from any thread."""
        if self._started and not self._ended:
            self._worker.cancel(self._request)
        self._ended = True

    def __del__(self) -> None:
        if self._started and not self._ended:
            self._request.cancelled.set()


def _pipeline(request: EngineRequest, options: Options) -> Any:
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = options.openvino_cache_size
    scheduler.max_num_seqs = options.openvino_max_batch
    scheduler.enable_prefix_caching = True  # the turns of a chat, and the n replies to one prompt
    precision = options.openvino_precision
    if precision == "auto" and request.settings.get("infer_dtype") == "float32":
        precision = "float32"
    properties: dict[str, Any] = {}
    if precision != "auto":
        properties["INFERENCE_PRECISION_HINT"] = PRECISIONS[precision]
    if precision == "float32":
        properties |= {"KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    path = weights_of(request)
    try:
        return openvino_genai.ContinuousBatchingPipeline(
            path, scheduler, options.openvino_device, {**properties, **(options.openvino_config or {})}
        )
    except (RuntimeError, ValueError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise TkError(
            f"OpenVINO cannot load {path}: {lines[-1] if lines else type(error).__name__}",
            hint="Of GGUF files it knows llama, qwen2 and qwen3; `infer_backend: huggingface` runs the others.",
        ) from error
