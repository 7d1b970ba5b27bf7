"""Requests of OpenAI's protocol as far as this server honours them. An unknown field is an error."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
"""Fields that change no reply; the header `x-tk-ignored` of the answer lists those that were given."""

Number = StrictInt | StrictFloat
Text = Annotated[StrictStr, Field(max_length=4_000_000)]
Name = Annotated[StrictStr, Field(pattern=r"^[a-zA-Z0-9_.:-]{1,256}$")]
Stops = Annotated[list[Annotated[StrictStr, Field(min_length=1, max_length=256)]], Field(max_length=16)]
TokenId = Annotated[StrictInt, Field(ge=0, le=2**31 - 1)]


class Strict(BaseModel):
    """Takes what it declares and nothing else."""

    model_config = ConfigDict(extra="forbid")


class Function(Strict):
    """The name and arguments of a call; arguments are JSON text."""

    name: Name
    arguments: Text


class Call(Strict):
    """A call that the assistant made."""

    function: Function
    id: StrictStr | None = None
    type: Literal["function"] = "function"
    index: StrictInt | None = None


class TextPart(Strict):
    """A piece of text."""

    type: Literal["text"]
    text: Text


class ImageUrl(Strict):
    """`data:image/png;base64,...`, or, where the server allows it, an http(s) or file URL."""

    url: StrictStr
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Strict):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ChatMessage(Strict):
    """One message."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[Part] | None = None
    name: StrictStr | None = None
    tool_calls: Annotated[list[Call], Field(max_length=128)] | None = None
    tool_call_id: StrictStr | None = None
    reasoning_content: Text | None = None
    refusal: None = None


class ToolFunction(Strict):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: Name
    description: Text | None = None
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: StrictBool | None = None


class Tool(Strict):
    """A tool."""

    type: Literal["function"]
    function: ToolFunction


class JsonSchema(Strict):
    """A schema with its name."""

    name: StrictStr
    schema_: dict[str, Any] = Field(alias="schema")
    description: StrictStr | None = None
    strict: StrictBool | None = None


class ResponseFormat(Strict):
    """`text`, any JSON object, or JSON after a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Strict):
    """`include_usage`: a last chunk with the number of tokens."""

    include_usage: StrictBool = False


class Body(Strict):
    """A whole request."""

    @model_validator(mode="before")
    @classmethod
    def is_text(cls, data: Any) -> Any:
        """JSON that Python reads and that is none: lone surrogates, NaN."""
        try:
            json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a text with half of a surrogate pair is no Unicode") from None
        except (TypeError, RecursionError) as error:
            raise ValueError(str(error)) from None
        return data


class Request(Body):
    """What requests of both kinds have."""

    model: StrictStr
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[StrictInt, Field(ge=1, le=2**31 - 1)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=10)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[StrictInt, Field(ge=0, le=2**31 - 1)] | None = None
    repetition_penalty: Annotated[Number, Field(gt=0, le=100)] | None = None
    do_sample: StrictBool | None = None
    n: Annotated[StrictInt, Field(ge=1, le=128)] | None = None
    stop: Annotated[StrictStr, Field(min_length=1, max_length=256)] | Stops | None = None
    seed: Annotated[StrictInt, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    frequency_penalty: Annotated[Number, Field(ge=0, le=0)] | None = Field(
        default=None, description="Not offered: only 0."
    )
    presence_penalty: Annotated[Number, Field(ge=0, le=0)] | None = Field(
        default=None, description="Not offered: only 0."
    )
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = Field(
        default=None, description="Not offered: only empty."
    )
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None

    @property
    def ignored(self) -> list[str]:
        """Fields of `IGNORED` that were given."""
        return [name for name in IGNORED if getattr(self, name, None) is not None]

    @property
    def stops(self) -> tuple[str, ...]:
        """`stop` as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatRequest(Request):
    """The body of `/v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[StrictInt, Field(ge=1, le=2**31 - 1)] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto"] | None = Field(
        default=None, description="`required` and a named function are not offered."
    )
    parallel_tool_calls: StrictBool | None = Field(default=None, description="The model decides: only true.")


class CompletionRequest(Request):
    """The body of `/v1/completions`."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=128)]
        | Annotated[list[TokenId], Field(min_length=1, max_length=1_000_000)]
        | Annotated[list[list[TokenId]], Field(min_length=1, max_length=128)]
    )
    logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None


class EmbeddingRequest(Body):
    """The body of `/v1/embeddings`."""

    model: StrictStr
    input: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=256)]
        | Annotated[list[TokenId], Field(min_length=1, max_length=1_000_000)]
        | Annotated[list[list[TokenId]], Field(min_length=1, max_length=256)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    user: Any = None


class ScoreRequest(Body):
    """The body of `/v1/score/evaluation`: texts, or conversations that the template renders."""

    model: StrictStr
    messages: Annotated[
        list[Text | Annotated[list[ChatMessage], Field(min_length=1)]], Field(min_length=1, max_length=256)
    ]
    max_length: Annotated[StrictInt, Field(ge=1)] | None = None
