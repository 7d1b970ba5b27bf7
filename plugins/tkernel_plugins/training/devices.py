"""Whether this machine surely has no accelerator, told without importing torch."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, entry_points, version

NODES = (
    *("/dev/nvidia*", "/dev/nvhost*", "/dev/nvmap", "/dev/dxg"),  # NVIDIA, Jetson, WSL
    *("/dev/kfd", "/dev/dri/renderD*", "/dev/accel*", "/dev/davinci*", "/dev/hl[0-9]*"),
)
"""Device nodes of accelerators on Linux: without one of them no process can open a GPU."""

BACKENDS = ("torch_npu", "torch_xla", "habana_frameworks", "intel_extension_for_pytorch")
"""Packages that bring an accelerator to a torch that was built for CPUs."""


def no_accelerator() -> str | None:
    """Why torch will surely see no accelerator; None where it might, which only torch itself can tell."""
    from importlib.util import find_spec

    try:
        torch = version("torch")
    except PackageNotFoundError:
        return None
    brought = any(find_spec(name) for name in BACKENDS) or bool(entry_points(group="torch.backends"))
    if torch.endswith("+cpu") and not brought:
        return f"torch {torch} is a build for CPUs"
    return no_device()


def no_device(nodes: Iterable[str] = NODES, platform: str = sys.platform) -> str | None:
    """Why no accelerator can be opened on this machine; None if one might be."""
    if platform != "linux" or any(glob.glob(pattern) for pattern in nodes):
        return None
    return "this machine has no device file of a GPU"
