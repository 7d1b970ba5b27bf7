"""Requests made from the OpenAPI schema, right and wrong ones, never give a 500."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error

from tkernel_plugins.serving.app import make_app
from tkernel_plugins.serving.service import Service
from tkernel_plugins.serving.settings import ServeSettings


def _schema():
    """That of the application; requests go to the server of the test."""
    from says import Options, SaysEngine

    from tkernel.testing import tiny
    from tkernel.testing.chatml import chatml_renderer

    renderer = chatml_renderer(tiny.make_tokenizer())
    service = Service(SaysEngine(renderer, Options()), renderer, ServeSettings())
    return schemathesis.openapi.from_dict(make_app(service).openapi())


schema = _schema()


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
def test_no_request_gives_a_500(case, server):
    # Half of the requests name the model, so that what comes after is reached.
    if isinstance(case.body, dict) and len(str(case.body)) % 2:
        case.body["model"] = "tiny"
    case.call_and_validate(base_url=server.url, checks=[not_a_server_error], timeout=120)


def test_the_schema_names_every_route():
    assert set(schema.raw_schema["paths"]) == {
        "/health",
        "/metrics",
        "/v1/models",
        "/v1/models/{name}",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/score/evaluation",
    }
