"""What a server refuses, and that it goes on after it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import http.server
import io
import json
import signal
import socket
import threading
import time

import openai
import pytest
from serving_kit import Server

from tkernel_plugins.serving import images
from tkernel_plugins.serving.errors import ApiError
from tkernel_plugins.serving.settings import ServeSettings

CHAT = "/v1/chat/completions"


def chat(text="Hello", **more):
    return {"model": "parrot", "messages": [{"role": "user", "content": text}], **more}


def until(condition, seconds=60):
    """Wait until a condition holds; on a busy machine nothing has a fixed time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def guarded(folder):
    """A server with two keys, small limits, and a folder of pictures."""
    from serving_kit import SAYS

    (folder / "pictures").mkdir()
    server = Server(
        *(folder / "serve.yaml", "--name", "parrot", "--plugin", SAYS, "--infer_backend", "says"),
        *("--api-key", "first", "--api-key", "second", "--max-body", "1", "--timeout", "5"),
        *("--max-tokens", "100", "--max_new_tokens", "100", "--media-folder", folder / "pictures"),
        *("--cors", "https://a.example"),
    )
    yield server
    server.stop()


# -- keys, limits, origins -----------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "", "wrong", "firs", "first2", "\xff"])
def test_without_a_right_key_nothing_but_health_is_answered(guarded, key):
    for path, body in (("/v1/models", None), (CHAT, chat()), ("/metrics", None), ("/openapi.json", None)):
        status, headers, answer = guarded.ask(path, body, key=key)
        assert status == 401
        assert headers["WWW-Authenticate"] == "Bearer"
        assert json.loads(answer)["error"]["code"] == "invalid_api_key"
    assert guarded.ask("/health")[0] == 200


def test_each_of_several_keys_opens(guarded):
    assert [guarded.ask("/v1/models", key=key)[0] for key in ("first", "second")] == [200, 200]


def test_keys_are_compared_in_constant_time(monkeypatch):
    """Every key is compared with `hmac.compare_digest`, also after one that fits."""
    import asyncio

    from tkernel_plugins.serving import guard
    from tkernel_plugins.serving.gate import Gate
    from tkernel_plugins.serving.metrics import Metrics

    compared = []
    monkeypatch.setattr(guard.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or a == b)

    async def app(scope, receive, send):
        return None

    guarded = guard.Guard(app, ServeSettings(api_keys=("one", "two")), Metrics(Gate(1, 1)))
    headers = [(b"authorization", b"Bearer one")]
    asyncio.run(guarded({"type": "http", "path": "/", "method": "GET", "headers": headers}, None, None))
    assert compared == [(b"one", b"one"), (b"one", b"two")]


def test_a_body_past_the_limit_is_413_said_or_chunked(guarded):
    big = json.dumps(chat("x" * 2_000_000)).encode()
    assert guarded.ask(CHAT, big, key="first")[0] == 413
    connection = http.client.HTTPConnection("127.0.0.1", guarded.port, timeout=60)
    connection.putrequest("POST", CHAT)
    for name, value in (("Authorization", "Bearer first"), ("Content-Type", "application/json")):
        connection.putheader(name, value)
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    try:
        for start in range(0, len(big), 65536):
            piece = big[start : start + 65536]
            connection.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        connection.send(b"0\r\n\r\n")
    except OSError:
        pass  # the server answers before all is sent
    assert connection.getresponse().status == 413
    assert guarded.ask("/health")[0] == 200


def test_more_tokens_than_allowed_are_400_and_a_slow_reply_ends_with_the_time_limit(guarded):
    assert guarded.ask(CHAT, chat(max_tokens=101), key="first")[0] == 400
    status, _, answer = guarded.ask(CHAT, chat("delay=1 " + "word " * 30), key="first")
    assert (status, json.loads(answer)["error"]["code"]) == (504, "timeout")
    streamed = guarded.ask(CHAT, chat("delay=1 " + "word " * 30, stream=True), key="first")[2].decode()
    assert '"code":"timeout"' in streamed
    assert "[DONE]" not in streamed
    until(lambda: b"tk_running_requests 0.0" in guarded.ask("/metrics", key="first")[2])


def test_only_named_origins_may_call(guarded, parrot):
    ask = [("Origin", "https://a.example")]
    assert guarded.ask("/health", headers=ask)[1]["Access-Control-Allow-Origin"] == "https://a.example"
    assert (
        guarded.ask("/health", headers=[("Origin", "https://b.example")])[1]["Access-Control-Allow-Origin"]
        is None
    )
    assert parrot.ask("/health", headers=ask)[1]["Access-Control-Allow-Origin"] is None


def test_it_listens_at_loopback_alone(parrot):
    assert parrot.url.startswith("http://127.0.0.1:")
    other = next(
        (a[4][0] for a in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)), "127.0.0.1"
    )
    if not other.startswith("127."):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((other, parrot.port), timeout=5)


# -- requests that are wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "a"}]}, "role"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "last message"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}, "message 1"),
        ({"temprature": 1}, "temprature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"n": 0}, "n"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"presence_penalty": 1.0}, "presence_penalty"),
        ({"top_logprobs": 2}, "logprobs"),
        ({"stop": [""]}, "stop"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_schema"}}, "json_schema"),
        ({"response_format": {"type": "json_object"}, "tools": [{"type": "function", "function": {"name": "f"}}]}, "exclude"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a/b.png"}}]}]}, "takes no images"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_400_in_openais_form_and_names_the_field(parrot, change, says):
    status, _, answer = parrot.ask(CHAT, {**chat(), **change})
    error = json.loads(answer)["error"]
    assert status == 400
    assert error["type"] == "invalid_request_error"
    assert says in error["message"] + str(error["param"])


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"a"', b"\xff\xfe", b"[" * 100_000, b'{"model": NaN}'],
)
def test_what_is_no_request_at_all_is_400(parrot, body):
    assert parrot.ask(CHAT, body)[0] == 400


def test_half_a_surrogate_pair_is_400(parrot):
    body = json.dumps(chat()).replace("Hello", "\\ud800").encode()
    assert parrot.ask(CHAT, body)[0] == 400


def test_fields_that_change_nothing_are_listed(parrot):
    headers = parrot.ask(CHAT, chat(user="u1", metadata={"a": "b"}))[1]
    assert headers["x-tk-ignored"] == "user, metadata"


def test_a_grammar_that_the_engine_cannot_hold_is_400(parrot):
    assert parrot.ask(CHAT, chat(response_format={"type": "json_object"}))[0] == 400


def test_unknown_paths_and_methods_are_404_and_405_in_openais_form(parrot):
    for path, body, status in (("/v1/nothing", None, 404), (CHAT, None, 405), ("/v1/models", {}, 405)):
        got, _, answer = parrot.ask(path, body)
        assert (got, json.loads(answer)["error"]["type"]) == (status, "invalid_request_error")


# -- places --------------------------------------------------------------------------------------------


class Slow:
    """A stream that is read in a thread until `close`."""

    def __init__(self, server, text):
        body = json.dumps(chat(text, stream=True))
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        self.connection.request("POST", CHAT, body, {"Content-Type": "application/json"})

    def close(self):
        self.connection.close()


def test_a_full_queue_is_429_with_retry_after_and_disconnecting_frees_the_places(parrot):
    """Four run and two wait; the seventh is refused. All go away: nothing runs or waits any more."""
    slow = []
    for number in range(6):
        slow.append(Slow(parrot, "delay=0.3 " + "word " * 400))
        until(
            lambda n=number: (
                parrot.metric("tk_running_requests") + parrot.metric("tk_waiting_requests") == n + 1
            )
        )
    assert (parrot.metric("tk_running_requests"), parrot.metric("tk_waiting_requests")) == (4, 2)
    status, headers, answer = parrot.ask(CHAT, chat())
    assert (status, json.loads(answer)["error"]["type"]) == (429, "rate_limit_error")
    assert int(headers["Retry-After"]) > 0
    for one in slow:
        one.close()
    until(lambda: parrot.metric("tk_running_requests") == 0 and parrot.metric("tk_waiting_requests") == 0)
    said = parrot.ask(CHAT, chat("stats"))
    assert json.loads(said[2])["choices"][0]["message"]["content"] == "1"


def test_a_client_that_hangs_up_before_a_whole_reply_frees_its_place(parrot):
    connection = http.client.HTTPConnection("127.0.0.1", parrot.port, timeout=60)
    body = json.dumps(chat("delay=0.3 " + "word " * 400))
    connection.request("POST", CHAT, body, {"Content-Type": "application/json"})
    until(lambda: parrot.metric("tk_running_requests") == 1)
    connection.close()
    until(lambda: parrot.metric("tk_running_requests") == 0)


def test_at_sigterm_running_replies_end_and_new_ones_are_refused(folder):
    from serving_kit import SAYS

    server = Server(
        *(folder / "serve.yaml", "--name", "parrot", "--plugin", SAYS, "--infer_backend", "says"),
        *("--max_new_tokens", "100"),
    )
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120)
    text = "delay=0.2 " + "word " * 15
    stream = iter(client.chat.completions.create(**chat(text), stream=True))
    said = next(stream).choices[0].delta.content or ""
    server.process.send_signal(signal.SIGTERM)
    said += "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert said == "word " * 15
    assert server.process.wait(60) == 128 + signal.SIGTERM
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=5)


# -- pictures ------------------------------------------------------------------------------------------


def soon(seconds=10.0):
    return time.monotonic() + seconds


def png(size=(8, 8)):
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", size).save(file, "png")
    return file.getvalue()


def data_url(data):
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def test_pictures_have_limits(tmp_path):
    """In number, bytes and pixels, and they must be pictures."""
    settings = ServeSettings(max_images=2, max_image_bytes=2000, max_pixels=100)
    load = images.Images(settings).load
    assert load(data_url(png())) == png()
    load(data_url(png()))
    for url, says in (
        (data_url(png()), "more than 2 images"),
        (data_url(png((20, 20))), "more than 100 pixels"),
        (data_url(b"a" * 3000), "more than 2000 bytes"),
        (data_url(b"no picture"), "cannot be read"),
        ("data:image/png;base64,a*b", "base64"),
        ("data:image/png,abc", "data: URL"),
        ("ftp://a/b", "https:"),
        ("/etc/passwd", "https:"),
        ("https://example.com/a.png", "fetches no URLs"),
    ):
        load = images.Images(settings).load if "2 images" not in says else load
        with pytest.raises(ApiError, match=says):
            load(url)


def test_files_are_read_in_the_allowed_folder_alone(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out.png"
    inside.mkdir()
    (inside / "a.png").write_bytes(png())
    outside.write_bytes(png())
    (inside / "link.png").symlink_to(outside)
    load = images.Images(ServeSettings(media_dir=inside)).load
    assert load(f"file://{inside}/a.png") == png()
    for path in (outside, inside / ".." / "out.png", inside / "link.png", inside, inside / "missing.png"):
        with pytest.raises(ApiError, match="no such file"):
            load(f"file://{path}")
    with pytest.raises(ApiError, match="no such file"):
        load(f"file://{inside}/%2e%2e/out.png")
    with pytest.raises(ApiError, match="reads no local files"):
        images.Images(ServeSettings()).load(f"file://{inside}/a.png")
    with pytest.raises(ApiError, match="reads no local files"):
        load(f"file://elsewhere{inside}/a.png")


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0",
     "[fe80::1]", "[fd00::1]", "[::ffff:127.0.0.1]", "224.0.0.1", "100.64.0.1", "2130706433", "0x7f000001",
     "127.1", "[2002:7f00:1::]"],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused(host):
    with pytest.raises(ApiError, match=r"not public|cannot be fetched"):
        images.fetch(f"http://{host}/a.png", 1000, soon())


@pytest.fixture
def site(monkeypatch):
    """A web server at loopback; names that end with `.public` are taken to be public and lead to it."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path.startswith("/to?"):
                self.send_response(302)
                self.send_header("Location", self.path[4:])
                self.end_headers()
                return
            if self.path == "/slow-head":
                self.drip(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 500)
                return
            self.send_response(200)
            self.end_headers()
            if self.path == "/slow-body":
                self.drip(b"x" * 500)
                return
            self.wfile.write(png() if self.path == "/a.png" else b"x" * 5000)

        def drip(self, data):
            with contextlib.suppress(OSError):
                for byte in data:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.1)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    asked = []
    real = images.public_address

    def look_up(host, port):
        asked.append(host)
        return "127.0.0.1" if host.endswith(".public") else real(host, port)

    monkeypatch.setattr(images, "public_address", look_up)
    yield f"http://a.public:{server.server_port}", asked
    server.shutdown()


def test_a_url_is_fetched_from_the_address_that_was_checked(site):
    """Each host is looked up once: a name that changes its address in between leads nowhere else."""
    url, asked = site
    assert images.fetch(f"{url}/a.png", 1000, soon()) == png()
    assert images.fetch(f"{url}/to?/a.png", 1000, soon()) == png()
    assert asked == ["a.public"] * 3


def test_a_redirect_to_an_address_that_is_not_public_is_refused(site):
    url, _ = site
    for target in (
        "http://127.0.0.1:1/a.png",
        "http://169.254.169.254/latest",
        "file:///etc/passwd",
        "ftp://a/b",
    ):
        with pytest.raises(ApiError, match=r"not public|http\(s\)"):
            images.fetch(f"{url}/to?{target}", 1000, soon())
    with pytest.raises(ApiError, match="redirects"):
        images.fetch(f"{url}/to?/to?/to?/to?/to?/a.png", 1000, soon())


def test_a_body_past_the_limit_is_not_read_to_its_end(site):
    with pytest.raises(ApiError, match="more than 1000 bytes"):
        images.fetch(f"{site[0]}/big", 1000, soon())


@pytest.mark.parametrize("page", ["slow-head", "slow-body"])
def test_a_host_that_sends_byte_by_byte_is_cut_off_at_the_deadline(site, page):
    begun = time.monotonic()
    with pytest.raises(ApiError, match="cannot be fetched"):
        images.fetch(f"{site[0]}/{page}", 100_000, soon(1))
    assert time.monotonic() - begun < 5


def test_a_name_with_a_public_and_a_private_address_is_refused(monkeypatch):
    """Rebinding by two records."""
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("8.8.8.8", "10.0.0.1")
    ]
    monkeypatch.setattr(images.socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(ApiError, match="not public"):
        images.public_address("two.example", 80)
