"""vLLM's own server as a child process on loopback: started, watched, ended, also when this process is killed."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tk_vllm import Options
from tk_vllm.weights import Weights
from tkernel.errors import TkError

MODULE = "vllm.entrypoints.openai.api_server"
WATCHED = Path(__file__).with_name("watched.py").read_text(encoding="utf-8")
MODEL, ADAPTER = "model", "adapter"
"""Names under which the server has the two."""


class Server:
    """One process of vLLM's server.

    Args:
        log: a file for all that it says.

    Raises:
        TkError: there is no vLLM, or it does not start; with the last lines that it said.
    """

    def __init__(self, weights: Weights, options: Options, log: Path) -> None:
        self.options = options
        self.log = log
        self.token = secrets.token_urlsafe(24)
        self.name = ADAPTER if weights.adapter else MODEL
        python = options.vllm_python or os.environ.get("TK_VLLM_PYTHON") or sys.executable
        self._check(python)
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [python, "-c", WATCHED, MODULE, *_arguments(weights, options, port)]
        with log.open("ab") as file:
            # A group of its own: Ctrl-C is for this process, which ends the server itself.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                env=self._environment(),
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def ends(self, seconds: float = 5.0) -> bool:
        """Whether the process has ended, or does so within `seconds`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return not self.alive

    def close(self) -> None:
        """End it and all that it started; safe to call twice."""
        for number, seconds in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
            if not self.alive:
                break
            self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)  # workers that a killed server left behind
        if self.process.stdin is not None:
            self.process.stdin.close()

    def last_words(self, lines: int = 8) -> str:
        """The end of what it said."""
        said = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "".join(f"\n    {line}" for line in said[-lines:])

    def _environment(self) -> dict[str, str]:
        variables = {
            **os.environ,
            "VLLM_API_KEY": self.token,  # on the command line every user of the machine could read it
            "VLLM_NO_USAGE_STATS": "1",
        }
        variables.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        return variables

    def _check(self, python: str) -> None:
        hint = "Make one: tk env create DIR --with contrib/tk-vllm; then set `vllm_python: DIR/bin/python`."
        test = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
        try:
            found = (
                subprocess.run([python, "-c", test], capture_output=True, timeout=120, check=False).returncode
                == 0
            )
        except OSError as error:
            raise TkError(f"`vllm_python: {python}` cannot be run: {error.strerror}", hint=hint) from error
        if not found:
            raise TkError(f"the environment of {python} has no vLLM", hint=hint)

    def _wait(self) -> None:
        end = time.monotonic() + self.options.vllm_start_timeout
        while time.monotonic() < end:
            if not self.alive:
                raise TkError(
                    f"vLLM ended while it started, with exit status {self.process.returncode}:{self.last_words()}",
                    hint=f"All that it said is in {self.log}.",
                )
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
                return
            time.sleep(0.2)
        raise TkError(
            f"vLLM did not start within {self.options.vllm_start_timeout:g} s:{self.last_words()}",
            hint="Raise `vllm_start_timeout`, or set `vllm_enforce_eager: true`.",
        )


def _arguments(weights: Weights, options: Options, port: int) -> list[str]:
    words = [
        "--model",
        weights.model,
        "--served-model-name",
        MODEL,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    words += ["--dtype", options.vllm_dtype, "--max-model-len", str(options.vllm_maxlen)]
    words += ["--gpu-memory-utilization", str(options.vllm_gpu_util)]
    if options.vllm_enforce_eager:
        words.append("--enforce-eager")
    if weights.adapter is not None:
        words += ["--enable-lora", "--max-lora-rank", str(options.vllm_max_lora_rank)]
        words += ["--lora-modules", f"{ADAPTER}={weights.adapter}"]
    return words + [
        word for name, value in (options.vllm_config or {}).items() for word in _option(name, value)
    ]


def _option(name: str, value: Any) -> list[str]:
    import json

    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [flag] if value else [f"--no-{flag[2:]}"]
    return [flag, json.dumps(value) if isinstance(value, Mapping | list) else str(value)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
