"""The server's process: a socket, the signals, and the end."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import uvicorn

from tkernel_plugins.serving.settings import ServeSettings


def run_server(app: Any, host: str, port: int, settings: ServeSettings, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; running requests may end within `settings.drain` seconds.

    Args:
        port: 0 takes a free one.
        ready: called with the server's URL once it listens.
    """
    log = copy.deepcopy(uvicorn.config.LOGGING_CONFIG)
    log["loggers"]["tkernel.serve"] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    log["handlers"]["access"]["stream"] = "ext://sys.stderr"
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=log,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=round(settings.drain),
        timeout_keep_alive=30,
        server_header=False,
        lifespan="off",
        http="h11",
        ws="none",
    )
    _Server(config, ready).run()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[str], None]) -> None:
        super().__init__(config)
        self.ready = ready

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self.ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
