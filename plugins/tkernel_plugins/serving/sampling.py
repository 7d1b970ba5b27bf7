"""How a request wants its replies drawn; what it leaves out is as the run's options say."""

from __future__ import annotations

import dataclasses
import json

from tkernel.types.engine import RequestSampling, Sampling
from tkernel_plugins.serving.errors import ApiError
from tkernel_plugins.serving.protocol import ChatRequest, CompletionRequest, Request
from tkernel_plugins.serving.service import Service


def sampling_of(service: Service, asked: Request, *, tools: bool) -> RequestSampling:
    """The sampling of a request.

    Raises:
        ApiError: more tokens than the server allows, or a model that it does not have.
    """
    run = service.defaults
    given = {field.name: getattr(run, field.name) for field in dataclasses.fields(Sampling)}
    for name in ("temperature", "top_p", "top_k", "repetition_penalty", "n", "do_sample"):
        if (value := getattr(asked, name)) is not None:
            given[name] = float(value) if name in ("temperature", "top_p", "repetition_penalty") else value
    if asked.temperature and asked.do_sample is None:
        given["do_sample"] = True
    limit = asked.max_tokens
    if isinstance(asked, ChatRequest):
        limit = limit or asked.max_completion_tokens
        given["logprobs"] = (asked.top_logprobs or 0) if asked.logprobs else None
        # Calls may be written with special tokens, and are cut out of the text with them.
        given["skip_special_tokens"] = given["skip_special_tokens"] and not tools
    elif isinstance(asked, CompletionRequest):
        given["logprobs"] = asked.logprobs
    most = service.settings.max_tokens
    if limit is not None and most is not None and limit > most:
        raise ApiError(400, f"this server's replies have at most {most} tokens", param="max_tokens")
    if limit is not None or (most is not None and not 0 < given["max_new_tokens"] <= most):
        given["max_new_tokens"] = limit or most
    if asked.stop is not None:
        given["stop"] = asked.stops
    return RequestSampling(
        **given, seed=asked.seed, adapter=service.adapter(asked.model), grammar=_grammar(asked)
    )


def _grammar(asked: Request) -> str | None:
    form = asked.response_format if isinstance(asked, ChatRequest) else None
    if form is None or form.type == "text":
        return None
    schema = {"type": "object"} if form.json_schema is None else form.json_schema.schema_
    return json.dumps(schema)
