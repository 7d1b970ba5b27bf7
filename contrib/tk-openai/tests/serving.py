"""`tk serve` on a model, in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path


class Served:
    """A running server; `address` is its `http://127.0.0.1:PORT/v1`."""

    def __init__(self, folder: Path, **settings: object) -> None:
        (folder / "run.yaml").write_text(json.dumps(settings))
        command = [
            str(Path(sys.executable).with_name("tk")),
            "serve",
            str(folder / "run.yaml"),
            "--port",
            "0",
        ]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ)
        )
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if found := re.match(r"serving .* at (http://\S+/v1)", line):
                self.address = found[1]
                return
        self.process.wait()
        raise AssertionError("".join(said))

    def close(self) -> None:
        """End it, and wait."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
