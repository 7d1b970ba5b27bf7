"""The engine behind `infer_backend: huggingface`: `model.generate` in a thread, read as a stream."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation import BaseStreamer

from tkernel.errors import TkError
from tkernel.types.bundle import ModelBundle
from tkernel.types.conversation import Conversation
from tkernel.types.engine import Delta, Reply, Sampling, collect
from tkernel.types.media import MediaProcessor, MediaRefs
from tkernel.types.rendering import Renderer
from tkernel_plugins.engines.huggingface import Options
from tkernel_plugins.engines.incremental_text import IncrementalText

BATCH = 16
"""Conversations that are generated together; more are done one batch after another."""


class TransformersEngine:
    """Implements `tkernel.types.engine.Engine` on a module in memory.

    Prompts of a batch are padded on the left. Greedy decoding in fp32 equals the argmax loop token by
    token, alone or in a batch. Sampling draws from a generator of its own that starts at `seed`.
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
        self._random = torch.Generator().manual_seed(seed).get_state()
        self._busy = threading.Lock()

    def stream(
        self, conversations: Sequence[Conversation], sampling: Sampling | None = None
    ) -> Iterator[Delta]:
        """Replies to many conversations; see `Engine.stream`.

        Raises:
            TkError: the engine is closed, or a prompt leaves no room for a reply.
        """
        sampling = sampling or self.options
        for start in range(0, len(conversations), BATCH):
            yield from self._stream_batch(conversations[start : start + BATCH], sampling, start)

    def reply(self, conversations: Sequence[Conversation], sampling: Sampling | None = None) -> list[Reply]:
        """Whole replies; see `Engine.reply`."""
        return collect(self.stream(conversations, sampling), len(conversations), self.renderer.parse_reply)

    def close(self) -> None:
        """Let go of the model."""
        self.bundle = None

    # -- one batch ---------------------------------------------------------------------------------

    def _stream_batch(
        self, conversations: Sequence[Conversation], sampling: Sampling, first: int
    ) -> Iterator[Delta]:
        bundle = self._open_bundle()
        if self.media is not None:
            conversations = [self.media.expand(conversation) for conversation in conversations]
        prompts = [self.renderer.prompt_ids(conversation) for conversation in conversations]
        limits = [self._room(len(prompt), sampling) for prompt in prompts]
        rows = [
            _Row(
                first + number,
                limit,
                IncrementalText(bundle.tokenizer, skip_special_tokens=sampling.skip_special_tokens),
            )
            for number, limit in enumerate(limits)
        ]
        inputs = self._inputs(prompts, conversations)
        config = self._config(sampling, max(limits))
        with closing(self._tokens(bundle, inputs, config)) as steps:
            for tokens in steps:
                for row, token in zip(rows, tokens, strict=True):
                    if not row.done and (delta := row.take(token, self.renderer.stop_ids)):
                        yield delta
                if all(row.done for row in rows):
                    return
        for row in rows:
            if not row.done:
                yield row.end("length")

    def _open_bundle(self) -> ModelBundle:
        if self.bundle is None:
            raise TkError("this engine is closed", hint="Open another one.")
        return self.bundle

    def _room(self, prompt: int, sampling: Sampling) -> int:
        """How many tokens the reply to a prompt of so many may have."""
        config = self._open_bundle().module.config.get_text_config()
        context = getattr(config, "max_position_embeddings", None) or 2**31
        if prompt >= context:
            raise TkError(
                f"the prompt has {prompt:,} tokens and the model's context is {context:,}",
                hint="Shorten the conversation (`/clear` in `tk chat`).",
            )
        longest = getattr(sampling, "max_length", self.options.max_length)
        wanted = sampling.max_new_tokens if sampling.max_new_tokens > 0 else max(longest - prompt, 1)
        return min(wanted, context - prompt)

    def _inputs(
        self, prompts: Sequence[Sequence[int]], conversations: Sequence[Conversation]
    ) -> dict[str, Any]:
        """Left-padded ids with their mask, and what the media become, on the module's device."""
        module, longest = self._open_bundle().module, max(map(len, prompts))
        fill = self._padding()
        padding = [longest - len(prompt) for prompt in prompts]
        inputs: dict[str, Any] = {
            "input_ids": torch.tensor(
                [[fill] * pad + list(p) for pad, p in zip(padding, prompts, strict=True)]
            ),
            "attention_mask": torch.tensor([[0] * pad + [1] * (longest - pad) for pad in padding]),
        }
        if self.media is not None:
            refs = [MediaRefs(c.images, c.videos, c.audios) for c in conversations]
            inputs |= dict(self.media.collate(refs))
        device = module.get_input_embeddings().weight.device
        return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}

    def _padding(self) -> int:
        tokenizer = self._open_bundle().tokenizer
        if tokenizer.pad_token_id is not None:
            return int(tokenizer.pad_token_id)
        return self.renderer.stop_ids[0] if self.renderer.stop_ids else 0

    def _config(self, sampling: Sampling, max_new_tokens: int) -> GenerationConfig:
        """All that `sampling` says, said explicitly: what is left open is filled from the model's own file."""
        draws = sampling.do_sample and sampling.temperature > 0
        drawing = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
        return GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=draws,
            **(drawing if draws else {"temperature": 1.0, "top_p": 1.0, "top_k": 50}),
            num_beams=sampling.num_beams,
            repetition_penalty=sampling.repetition_penalty,
            length_penalty=sampling.length_penalty,
            eos_token_id=list(self.renderer.stop_ids) or None,
            pad_token_id=self._padding(),
            use_cache=True,
        )

    # -- the thread --------------------------------------------------------------------------------

    def _tokens(
        self, bundle: ModelBundle, inputs: dict[str, Any], config: GenerationConfig
    ) -> Iterator[list[int]]:
        """The next token of every row, step by step. Closing the iterator stops the thread and waits for it."""
        stream = _TokenStream()
        worker = threading.Thread(
            target=self._work, args=(bundle.module, inputs, config, stream), name="tk-generate", daemon=True
        )
        worker.start()
        try:
            while True:
                item = stream.queue.get()
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stream.cancelled.set()
            worker.join()

    def _work(
        self, module: Any, inputs: dict[str, Any], config: GenerationConfig, stream: _TokenStream
    ) -> None:
        try:
            with self._busy, _in_eval_mode(module), self._own_random(module):
                # Beam search decides about a reply at its end; everything else is streamed.
                beams = config.num_beams > 1
                ids = module.generate(
                    **inputs,
                    generation_config=config,
                    stopping_criteria=StoppingCriteriaList([_Cancelled(stream.cancelled)]),
                    **({} if beams else {"streamer": stream}),
                )
                if beams:
                    for step in ids[:, inputs["input_ids"].shape[1] :].t().tolist():
                        stream.queue.put(step)
            stream.queue.put(None)
        except BaseException as error:
            stream.queue.put(error)

    @contextmanager
    def _own_random(self, module: Any) -> Iterator[None]:
        """Draw from the engine's own generator state, and leave the global one as it was."""
        device = module.get_input_embeddings().weight.device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.set_rng_state(self._random)
            if devices:
                torch.cuda.manual_seed(int(torch.randint(2**31, ())))
            yield
            self._random = torch.get_rng_state()


@dataclass
class _Row:
    """The reply to one conversation while it is generated."""

    index: int
    limit: int
    text: IncrementalText
    done: bool = False
    count: int = 0
    held: list[int] = field(default_factory=list)
    """Ids whose text is not complete."""

    def take(self, token: int, stop_ids: Sequence[int]) -> Delta | None:
        """The piece that `token` completes, if it does."""
        self.count += 1
        self.held.append(token)
        if token in stop_ids:
            return self.end("stop")
        piece = self.text.add(token)
        if self.count >= self.limit:
            return self.end("length", piece)
        return self._piece(piece) if piece else None

    def end(self, reason: str, piece: str = "") -> Delta:
        """The last piece."""
        self.done = True
        return self._piece(piece + self.text.finish(), reason)

    def _piece(self, text: str, reason: str | None = None) -> Delta:
        ids, self.held = tuple(self.held), []
        return Delta(self.index, text, ids, reason)


class _TokenStream(BaseStreamer):
    """Puts the new token of every row into a queue; the prompt, which comes first, is left out."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[list[int] | BaseException | None] = SimpleQueue()
        self.cancelled = threading.Event()
        self._is_prompt = True

    def put(self, value: torch.Tensor) -> None:
        if self._is_prompt:
            self._is_prompt = False
            return
        self.queue.put(value.reshape(-1).tolist())

    def end(self) -> None:
        """The end is told by `_work`, which knows of errors too."""


class _Cancelled(StoppingCriteria):
    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.event.is_set(), device=input_ids.device)


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
