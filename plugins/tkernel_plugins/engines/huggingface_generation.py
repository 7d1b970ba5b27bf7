"""The engine behind `infer_backend: huggingface`: one thread with the model, many callers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from tkernel.errors import DataError, TkError
from tkernel.types.bundle import ModelBundle
from tkernel.types.conversation import Conversation
from tkernel.types.engine import Delta, Prompt, Reply, RequestSampling, Sampling, collect
from tkernel.types.media import MediaProcessor
from tkernel.types.rendering import Renderer
from tkernel_plugins.engines.adapters_by_name import AdaptersByName
from tkernel_plugins.engines.choosing import Chooser
from tkernel_plugins.engines.grammars import Grammars
from tkernel_plugins.engines.huggingface import Options
from tkernel_plugins.engines.reply_row import ReplyRow
from tkernel_plugins.engines.worker import Request, Worker


class TransformersEngine:
    """Implements `tkernel.types.engine.Engine` on a module in memory.

    Requests of all callers share one batch, which they join and leave between two tokens. Greedy decoding in
    fp32 equals the argmax loop token by token, whatever else is in the batch. Every reply draws from a
    generator of its own.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        renderer: Renderer,
        options: Options,
        *,
        media: MediaProcessor | None = None,
        seed: int = 42,
    ) -> None:
        self.bundle: ModelBundle | None = bundle
        self.renderer = renderer
        self.options = options
        self.media = media
        self.capacity = options.max_batch
        self._seeds = torch.Generator().manual_seed(seed)
        self._adapters = AdaptersByName(bundle)
        self._grammars = Grammars(bundle.tokenizer, renderer.stop_ids)
        self._worker = Worker(bundle.module, self._padding(), self._adapters, options.max_batch, media)
        self._rendering = threading.Lock()  # tokenizers are changed while they encode

    def stream(
        self, conversations: Sequence[Conversation | Prompt], sampling: Sampling | None = None
    ) -> Iterator[Delta]:
        """Replies to many conversations; see `Engine.stream`. The iterator may be closed by any thread.

        Raises:
            DataError: a prompt leaves no room for a reply, a conversation cannot be rendered, a grammar that
                cannot be used, or no adapter of that name.
            TkError: the engine is closed, or cannot do what is asked for together.
        """
        return _Stream(self, conversations, sampling or self.options)

    def reply(
        self, conversations: Sequence[Conversation | Prompt], sampling: Sampling | None = None
    ) -> list[Reply]:
        """Whole replies; see `Engine.reply`."""
        sampling = sampling or self.options
        deltas = self.stream(conversations, sampling)
        return collect(deltas, conversations, sampling.n, self.renderer.parse_reply)

    def close(self) -> None:
        """End what runs, take adapters out, and let go of the model."""
        if self.bundle is not None:
            worker, adapters = self._worker, self._adapters
            worker.end(TkError("this engine was closed while it replied"))
            if adapters.folders:
                worker.call(adapters.close)
            del self._worker, self._adapters
        self.bundle = None

    @property
    def running(self) -> int:
        """Replies that are being generated or wait for a place."""
        self._open_bundle()
        return self._worker.count

    # -- beside replies ----------------------------------------------------------------------------

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that requests may ask for."""
        self._open_bundle()
        return tuple(self._adapters.folders)

    def load_adapter(self, name: str, folder: str | Path) -> None:
        """Hold the LoRA adapter in `folder` under `name`, beside the others; running requests go on.

        Raises:
            TkError: no adapter, or one that does not fit the model.
        """
        self._open_bundle()
        self._worker.call(lambda: self._adapters.load(name, folder))

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter. Raises `DataError` if there is none of that name."""
        self._open_bundle()
        self._worker.call(lambda: self._adapters.unload(name))

    def embed(self, texts: Sequence[str | Sequence[int]]) -> list[tuple[list[float], int]]:
        """For each text (or its ids) the mean of the last layer's states, of length 1, and its number of tokens.

        Raises:
            DataError: a text without tokens, or longer than the model's context.
        """
        bundle = self._open_bundle()
        with self._rendering:
            ids = [
                bundle.tokenizer(text).input_ids if isinstance(text, str) else list(text) for text in texts
            ]
        for one in ids:
            self._check_length(len(one), 0)
        return [(self._worker.call(lambda one=one: self._embedding(one)), len(one)) for one in ids]

    def score(self, given: Sequence[Conversation | Prompt], max_length: int | None = None) -> list[float]:
        """The reward of each conversation, whose last message is a reply, or text: the value of its last token.

        Args:
            max_length: tokens after which the text is cut off.

        Raises:
            DataError: one without tokens, or longer than the model's context.
            TkError: the model has no value head (`tkernel_plugins.training.value_head.load`).
        """
        self._open_bundle()
        with self._rendering:
            whole = [
                self._prompt_ids(one)
                if isinstance(one, Prompt)
                else self.renderer.encode([one], mask_history=True)[0].input_ids
                for one in given
            ]
        ids = [one[:max_length] for one in whole]
        for one in ids:
            self._check_length(len(one), 0)
        return [self._worker.call(lambda one=one: self._value(one)) for one in ids]

    def _value(self, ids: list[int]) -> float:
        from tkernel_plugins.training.value_head import last_values

        module = self._open_bundle().module
        device = module.get_input_embeddings().weight.device
        return float(last_values(module, {"input_ids": torch.tensor([ids], device=device)})[0])

    def _embedding(self, ids: list[int]) -> list[float]:
        module = self._open_bundle().module
        device = module.get_input_embeddings().weight.device
        states = module.base_model(input_ids=torch.tensor([ids], device=device)).last_hidden_state
        mean: list[float] = torch.nn.functional.normalize(states[0].float().mean(0), dim=-1).tolist()
        return mean

    # -- from conversations to rows ----------------------------------------------------------------

    def _request(self, conversations: Sequence[Conversation | Prompt], sampling: Sampling) -> Request:
        bundle = self._open_bundle()
        asked = sampling if isinstance(sampling, RequestSampling) else None
        if asked is not None and asked.adapter is not None:
            self._adapters.check(asked.adapter)
        if sampling.num_beams > 1 and (sampling.logprobs is not None or (asked and asked.grammar)):
            raise TkError(
                "beams give neither log-probabilities nor replies after a schema", hint="Set `num_beams: 1`."
            )
        expanded: list[Conversation | Prompt] = list(conversations)
        if self.media is not None:
            expanded = [c if isinstance(c, Prompt) else self.media.expand(c) for c in expanded]
        with self._rendering:
            prompts = [self._prompt_ids(conversation) for conversation in expanded]
        rows = []
        for number, prompt in enumerate(prompts):
            limit = self._room(len(prompt), sampling)
            for k in range(sampling.n):
                index = number * sampling.n + k
                chooser = Chooser(sampling, prompt, self._seed(asked, index), self._matcher(asked))
                stop_ids = self.renderer.stop_ids
                rows.append(ReplyRow(index, prompt, limit, sampling, bundle.tokenizer, stop_ids, chooser))
        whole = sampling.num_beams > 1 or not self._worker.forward.joinable or any(map(_has_media, expanded))
        repeated = [_conversation(c) for c in expanded for _ in range(sampling.n)]
        return Request(rows, asked.adapter if asked else None, repeated if whole else None)

    def _prompt_ids(self, conversation: Conversation | Prompt) -> list[int]:
        if isinstance(conversation, Conversation):
            return self.renderer.prompt_ids(conversation)
        if conversation.ids:
            return list(conversation.ids)
        ids: list[int] = self._open_bundle().tokenizer(conversation.text).input_ids
        if not ids and (start := self._open_bundle().tokenizer.bos_token_id) is not None:
            return [start]
        return ids

    def _seed(self, asked: RequestSampling | None, index: int) -> int:
        if asked is not None and asked.seed is not None:
            return asked.seed + index
        with self._rendering:
            return int(torch.randint(2**62, (), generator=self._seeds))

    def _matcher(self, asked: RequestSampling | None) -> Any:
        return self._grammars.matcher(asked.grammar) if asked is not None and asked.grammar else None

    def _open_bundle(self) -> ModelBundle:
        if self.bundle is None:
            raise TkError("this engine is closed", hint="Open another one.")
        return self.bundle

    def _check_length(self, prompt: int, reply: int) -> int:
        """The model's context; raises `DataError` for a prompt of so many tokens without room for a reply."""
        config = self._open_bundle().module.config.get_text_config()
        context = getattr(config, "max_position_embeddings", None) or 2**31
        if prompt == 0:
            raise DataError("the prompt has no tokens")
        if prompt + reply > context:
            raise DataError(
                f"the prompt has {prompt:,} tokens and the model's context is {context:,}",
                hint="Shorten the conversation (`/clear` in `tk chat`).",
            )
        return int(context)

    def _room(self, prompt: int, sampling: Sampling) -> int:
        """How many tokens the reply to a prompt of so many may have."""
        context = self._check_length(prompt, 1)
        longest = getattr(sampling, "max_length", self.options.max_length)
        wanted = sampling.max_new_tokens if sampling.max_new_tokens > 0 else max(longest - prompt, 1)
        return min(wanted, context - prompt)

    def _padding(self) -> int:
        tokenizer = self._open_bundle().tokenizer
        if tokenizer.pad_token_id is not None:
            return int(tokenizer.pad_token_id)
        return self.renderer.stop_ids[0] if self.renderer.stop_ids else 0


class _Stream:
    """The pieces of one call. Work starts with the first `next`; `close` ends it and frees its places."""

    def __init__(
        self, engine: TransformersEngine, conversations: Sequence[Conversation | Prompt], sampling: Sampling
    ) -> None:
        self._engine = engine
        self._asked = (conversations, sampling)
        self._request: Request | None = None
        self._worker: Worker | None = None
        self._ended = not conversations
        self._closed = False

    def __iter__(self) -> _Stream:
        return self

    def __next__(self) -> Delta:
        if self._ended or self._closed:
            raise StopIteration
        if self._request is None:
            request = self._engine._request(*self._asked)
            self._worker = self._engine._worker
            self._worker.submit(request)
            self._request = request
        item = self._request.queue.get()
        if isinstance(item, Delta):
            return item
        self._ended = True
        if item is not None:
            raise item
        raise StopIteration

    def close(self) -> None:
        """Stop, and wait until the places are free. Safe to call twice, from any thread."""
        self._closed = True
        if self._request is not None and self._worker is not None and not self._ended:
            self._worker.cancel(self._request)
            self._ended = True

    def __del__(self) -> None:
        if not self._ended and self._request is not None:
            self._request.cancelled.set()


def _has_media(conversation: Conversation | Prompt) -> bool:
    return isinstance(conversation, Conversation) and bool(
        conversation.images or conversation.videos or conversation.audios
    )


def _conversation(given: Conversation | Prompt) -> Conversation:
    return given if isinstance(given, Conversation) else Conversation(())
