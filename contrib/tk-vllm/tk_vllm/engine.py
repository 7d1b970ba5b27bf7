"""The engine behind `infer_backend: vllm`."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import tk_openai
from tk_openai.client import RemoteEngine
from tk_openai.replies import ServerReplies

from tk_vllm import Options
from tk_vllm.server import Server
from tk_vllm.weights import weights_of
from tkernel.errors import TkError
from tkernel.types.conversation import Conversation
from tkernel.types.engine import Delta, Prompt, Sampling
from tkernel.types.requests import EngineRequest


class VllmEngine(ServerReplies):
    """Implements `tkernel.types.engine.Engine`; a server that has ended is started again by the next call."""

    name = "vllm"

    def __init__(self, request: EngineRequest, options: Options) -> None:
        assert request.renderer is not None
        self.request = request
        self.renderer = request.renderer
        # The server's precision follows that of other engines, so that `tk parity` compares like with like.
        follows = options.vllm_dtype == "auto" and request.settings.get("infer_dtype") == "float32"
        self.options = replace(options, vllm_dtype="float32") if follows else options
        self._scratch = Path(tempfile.mkdtemp(prefix="tk-vllm-"))
        self._lock = threading.Lock()
        try:
            self._weights = weights_of(request, self._scratch)
            self.server, self._remote = self._start()
        except BaseException:
            shutil.rmtree(self._scratch, ignore_errors=True)
            raise

    def close(self) -> None:
        """End the server; safe to call twice."""
        with self._lock:
            self._remote.close()
            self.server.close()
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _stream(self, conversations: Sequence[Conversation | Prompt], sampling: Sampling) -> Iterator[Delta]:
        with self._lock:
            if not self.server.alive:
                self._remote.close()
                self.server, self._remote = self._start()
            server, remote = self.server, self._remote
        try:
            yield from remote.stream(conversations, sampling)
        except TkError as error:
            # Connections break a little before the process is gone.
            lost = isinstance(error.__cause__, openai.APIConnectionError)
            if not (server.ends() if lost else not server.alive):
                raise
            raise TkError(
                f"vLLM ended while it answered, with exit status {server.process.returncode}:{server.last_words()}",
                hint="The next request starts it again.",
            ) from error

    def _start(self) -> tuple[Server, RemoteEngine]:
        server = Server(self._weights, self.options, self._scratch / "vllm.log")
        options = tk_openai.Options(
            openai_base_url=f"{server.url}/v1", openai_model=server.name, openai_token=server.token
        )
        try:
            remote = RemoteEngine(
                self.renderer, self.request.bundle, options, seed=self.request.seed, extra=self._extra
            )
        except BaseException:
            server.close()
            raise
        return server, remote

    def _extra(self, sampling: Sampling) -> dict[str, Any]:
        """vLLM's own fields: ids that end a reply, ids in the answer, and what OpenAI's protocol lacks."""
        return {
            "stop_token_ids": list(self.renderer.stop_ids),
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "top_k": sampling.top_k if sampling.do_sample and sampling.top_k else -1,
            "repetition_penalty": sampling.repetition_penalty,
            "skip_special_tokens": sampling.skip_special_tokens,
        }
