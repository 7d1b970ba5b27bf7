"""What a server was told when it was started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024


@dataclass(frozen=True)
class ServeSettings:
    """Names, keys and limits; the defaults are those of `tk serve`."""

    model: str = "model"
    """The name that requests give for the model as it was loaded; adapters have names of their own."""
    api_keys: tuple[str, ...] = ()
    """Any of them opens the server; none: it is open to whoever reaches it."""
    queue: int = 256
    """Requests that wait for a place; one more gets 429."""
    max_body: int = 16 * MIB
    """Bytes of a request."""
    max_tokens: int | None = None
    """The most that a request may set `max_tokens` to; the model's context is a limit in any case."""
    timeout: float = 600.0
    """Seconds that one request may take, waiting included."""
    drain: float = 30.0
    """Seconds that running requests have after SIGTERM."""
    max_images: int = 16
    max_image_bytes: int = 16 * MIB
    max_pixels: int = 64_000_000
    """Width times height of an image, read before it is decoded."""
    media_urls: bool = False
    """Fetch images from http(s) URLs, at public addresses only."""
    media_dir: Path | None = None
    """The folder from which `file:` URLs may name images; None: none."""
    cors: tuple[str, ...] = ()
    """Origins whose pages may call the server."""
    reward: bool = False
    """A reward model: it scores and does not talk."""
