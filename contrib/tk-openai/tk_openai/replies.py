"""What engines whose replies come from a server share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

from tkernel.errors import TkError
from tkernel.types.conversation import Conversation
from tkernel.types.engine import Delta, Prompt, Reply, Sampling, collect
from tkernel.types.rendering import Renderer


class ServerReplies:
    """`stream` and `reply` of an engine that has `_stream`; `name` is the plugin's, for messages."""

    name: ClassVar[str]
    _stream: Callable[[Sequence[Conversation | Prompt], Sampling], Iterator[Delta]]
    renderer: Renderer
    options: Sampling

    def stream(
        self, conversations: Sequence[Conversation | Prompt], sampling: Sampling | None = None
    ) -> Iterator[Delta]:
        """See `Engine.stream`.

        Raises:
            TkError: the server refuses a request, or is gone.
        """
        sampling = sampling or self.options
        if sampling.num_beams > 1:
            raise TkError(
                f"the engine `{self.name}` cannot search with beams (`num_beams`)", hint="Set `num_beams: 1`."
            )
        return self._stream(conversations, sampling)

    def reply(
        self, conversations: Sequence[Conversation | Prompt], sampling: Sampling | None = None
    ) -> list[Reply]:
        """See `Engine.reply`."""
        sampling = sampling or self.options
        deltas = self.stream(conversations, sampling)
        return collect(deltas, conversations, sampling.n, self.renderer.parse_reply)
