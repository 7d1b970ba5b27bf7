"""Pictures that requests name: data URLs, and others only where the server was told to allow them."""

from __future__ import annotations

import base64
import binascii
import contextlib
import http.client
import io
import ipaddress
import socket
import ssl
import threading
import time
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

from tkernel_plugins.serving.errors import ApiError
from tkernel_plugins.serving.settings import ServeSettings

REDIRECTS = 3
SECONDS = 10.0
"""For the pictures of one request, redirects included."""


class Images:
    """Loads the pictures of one request, within the server's limits."""

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.count = 0
        self.deadline: float | None = None

    def load(self, url: str) -> bytes:
        """The bytes of a picture.

        Raises:
            ApiError: not allowed, not there, too large, or no picture.
        """
        self.count += 1
        if self.count > self.settings.max_images:
            raise _refused(f"more than {self.settings.max_images} images in one request")
        scheme = url.partition(":")[0].lower()
        if scheme == "data":
            data = self._data(url)
        elif scheme in ("http", "https"):
            if not self.settings.media_urls:
                raise _refused("this server fetches no URLs; send the image as a data: URL")
            self.deadline = self.deadline or time.monotonic() + SECONDS
            data = fetch(url, self.settings.max_image_bytes, self.deadline)
        elif scheme == "file":
            data = self._file(url)
        else:
            raise _refused("an image is a data:, https:, http: or file: URL")
        self._check(data)
        return data

    def _data(self, url: str) -> bytes:
        head, comma, body = url.partition(",")
        if not comma or not head.endswith(";base64"):
            raise _refused("a data: URL of an image is data:image/png;base64,...")
        try:
            return base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError) as error:
            raise _refused(f"the data: URL is not base64: {error}") from None

    def _file(self, url: str) -> bytes:
        allowed = self.settings.media_dir
        parts = urlsplit(url)
        if allowed is None or parts.netloc not in ("", "localhost"):
            raise _refused("this server reads no local files")
        try:
            path = Path(unquote(parts.path)).resolve()
            inside = path.is_relative_to(allowed.resolve()) and path.is_file()
            if inside and path.stat().st_size <= self.settings.max_image_bytes:
                return path.read_bytes()
        except (OSError, ValueError):
            inside = False
        raise _refused("the file is too large" if inside else "there is no such file in the folder of images")

    def _check(self, data: bytes) -> None:
        from PIL import Image, UnidentifiedImageError

        if len(data) > self.settings.max_image_bytes:
            raise _refused(f"an image has more than {self.settings.max_image_bytes} bytes")
        try:
            with Image.open(io.BytesIO(data)) as picture:
                pixels = picture.width * picture.height
        except (
            UnidentifiedImageError,
            OSError,
            ValueError,
            SyntaxError,
            Image.DecompressionBombError,
        ) as error:
            raise _refused(f"an image cannot be read: {type(error).__name__}") from None
        if pixels > self.settings.max_pixels:
            raise _refused(f"an image has more than {self.settings.max_pixels} pixels")


def fetch(url: str, most: int, deadline: float) -> bytes:
    """The body of an http(s) URL, through at most `REDIRECTS` redirects.

    Every host is looked up once and connected to by the address that was checked, so that a name which changes
    its address in between (DNS rebinding) leads nowhere else. Proxies of the environment are not used.

    Args:
        deadline: of `time.monotonic`; a host that sends little by little is cut off then.

    Raises:
        ApiError: an address that is not public, a failure, or more than `most` bytes.
    """
    for _ in range(REDIRECTS + 1):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise _refused("an image's URL is http(s)://HOST/...")
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            status, location, data = _get(parts.scheme, parts.hostname, port, url, most, deadline)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _refused(
                f"the image at {parts.hostname} cannot be fetched: {type(error).__name__}"
            ) from None
        if status in (301, 302, 303, 307, 308) and location:
            url = urljoin(url, location)
            continue
        if status != 200:
            raise _refused(f"the image at {parts.hostname} cannot be fetched: status {status}")
        return data
    raise _refused(f"the image's URL leads through more than {REDIRECTS} redirects")


def _get(
    scheme: str, host: str, port: int, url: str, most: int, deadline: float
) -> tuple[int, str | None, bytes]:
    address = public_address(host, port)
    connection = http.client.HTTPConnection(host, port, timeout=max(0.1, deadline - time.monotonic()))
    made = socket.create_connection((address, port), timeout=max(0.1, deadline - time.monotonic()))
    if scheme == "https":
        context = ssl.create_default_context()
        made = context.wrap_socket(made, server_hostname=host, do_handshake_on_connect=False)
    # Timeouts of a socket begin anew with each byte.
    cut = threading.Timer(max(0.0, deadline - time.monotonic()), _cut, (made,))
    cut.start()
    try:
        if isinstance(made, ssl.SSLSocket):
            made.do_handshake()
        connection.sock = made
        parts = urlsplit(url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"Accept": "image/*", "Connection": "close"})
        response = connection.getresponse()
        data = response.read(most + 1)
        if time.monotonic() > deadline:
            raise TimeoutError
        if len(data) > most:
            raise _refused(f"an image has more than {most} bytes")
        return response.status, response.getheader("Location"), data
    finally:
        cut.cancel()
        connection.close()
        made.close()


def _cut(made: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may have been closed in between
        socket.socket.shutdown(made, socket.SHUT_RDWR)


def public_address(host: str, port: int) -> str:
    """An address of `host`; every one that it has must be public.

    Raises:
        ApiError: one is private, loopback, link-local, multicast or reserved.
    """
    found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    for text in found:
        address = ipaddress.ip_address(text.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
        if not address.is_global or address.is_multicast or (mapped and not mapped.is_global):
            raise _refused(f"{host} is at an address that is not public")
    return sorted(found)[0]


def _refused(message: str) -> ApiError:
    return ApiError(400, message, param="messages", code="invalid_image")
