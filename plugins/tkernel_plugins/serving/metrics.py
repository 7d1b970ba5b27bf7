"""What `/metrics` tells Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tkernel_plugins.serving.gate import Gate

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self, gate: Gate) -> None:
        self.registry = CollectorRegistry()
        told = {"registry": self.registry}
        self.requests = Counter("tk_requests", "Answers by route and status.", ["route", "status"], **told)
        self.tokens = Counter("tk_tokens", "Tokens read and written.", ["kind"], **told)
        self.first = Histogram(
            "tk_first_token_seconds", "From a request to its first piece.", buckets=SECONDS, **told
        )
        self.seconds = Histogram(
            "tk_request_seconds", "From a request to its end.", ["route"], buckets=SECONDS, **told
        )
        running = Gauge("tk_running_requests", "Requests that the engine works on.", **told)
        waiting = Gauge("tk_waiting_requests", "Requests in the queue.", **told)
        running.set_function(lambda: gate.running)
        waiting.set_function(lambda: gate.waiting)

    def count(self, prompt: int, completion: int) -> None:
        """Tokens of one request."""
        self.tokens.labels("prompt").inc(prompt)
        self.tokens.labels("completion").inc(completion)

    def page(self) -> bytes:
        """The page."""
        return generate_latest(self.registry)
