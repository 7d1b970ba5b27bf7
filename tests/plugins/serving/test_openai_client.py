"""The official Python client of OpenAI against `tk serve`, feature by feature."""

from __future__ import annotations

import json
import math
import subprocess
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

HELLO = [{"role": "user", "content": "Hello"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def say(text):
    return [{"role": "user", "content": text}]


def test_models_are_listed_with_the_adapters(client):
    assert [model.id for model in client.models.list()] == ["tiny", "other"]
    assert client.models.retrieve("other").id == "other"


def test_an_unknown_model_is_404_and_the_message_names_those_that_are_there(client):
    with pytest.raises(openai.NotFoundError, match="tiny, other"):
        client.chat.completions.create(model="gpt-4", messages=HELLO)


def test_a_reply_comes_whole_with_its_usage(client):
    answer = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=5)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert 0 < answer.usage.completion_tokens <= 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_is_the_whole_reply_in_pieces_and_ends_with_the_usage(client):
    whole = client.chat.completions.create(model="tiny", messages=HELLO)
    chunks = list(
        client.chat.completions.create(
            model="tiny", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    *pieces, last = chunks
    text = "".join(chunk.choices[0].delta.content or "" for chunk in pieces)
    assert text == whole.choices[0].message.content
    assert pieces[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in pieces][-1] == whole.choices[0].finish_reason
    assert last.choices == []
    assert last.usage == whole.usage


def test_adapters_are_switched_by_the_name_of_the_model(client):
    def said(model):
        return client.chat.completions.create(model=model, messages=HELLO).choices[0].message.content

    base, adapted = said("tiny"), said("other")
    assert base != adapted
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(said, ["tiny", "other"] * 3)) == [base, adapted] * 3


def test_n_replies_of_a_seed_are_the_same_again_and_differ_from_each_other(client):
    def ask(seed):
        answer = client.chat.completions.create(
            model="tiny", messages=HELLO, n=3, seed=seed, temperature=1.5, top_p=1, max_tokens=12
        )
        return [choice.message.content for choice in answer.choices]

    assert ask(1) == ask(1)
    assert ask(1) != ask(2)
    assert len(set(ask(1))) > 1


def test_log_probabilities_are_given_for_each_token(client):
    answer = client.chat.completions.create(
        model="tiny", messages=HELLO, logprobs=True, top_logprobs=3, max_tokens=4
    )
    tokens = answer.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == answer.choices[0].message.content or any(
        token.bytes is None for token in tokens
    )
    for token in tokens:
        assert token.logprob == max(top.logprob for top in token.top_logprobs)  # greedy
        assert sum(math.exp(top.logprob) for top in token.top_logprobs) <= 1 + 1e-4
    streamed = client.chat.completions.create(
        model="tiny", messages=HELLO, logprobs=True, top_logprobs=3, max_tokens=4, stream=True
    )
    given = [c.choices[0].logprobs.content for c in streamed if c.choices[0].logprobs]
    assert [token.token for part in given for token in part] == [token.token for token in tokens]


def test_a_reply_after_a_json_schema_satisfies_it(client):
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model="tiny",
        messages=HELLO,
        max_tokens=60,
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
    )
    assert isinstance(json.loads(answer.choices[0].message.content)["ok"], bool)


def test_a_schema_that_cannot_be_held_is_400(client):
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nonsense"}}}
    with pytest.raises(openai.BadRequestError, match="schema"):
        client.chat.completions.create(model="tiny", messages=HELLO, response_format=form)


def test_stop_texts_end_a_reply(client):
    whole = client.chat.completions.create(model="tiny", messages=HELLO).choices[0].message.content
    middle = whole[len(whole) // 2]
    answer = client.chat.completions.create(model="tiny", messages=HELLO, stop=[middle]).choices[0]
    assert answer.message.content == whole.partition(middle)[0]
    assert answer.finish_reason == "stop"


def test_completions_go_on_from_texts_and_ids(client):
    answer = client.completions.create(model="tiny", prompt=["one", "two"], n=2, max_tokens=3, logprobs=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.choices[0].text == answer.choices[1].text  # greedy
    assert len(answer.choices[0].logprobs.tokens) == len(answer.choices[0].logprobs.token_logprobs) > 0
    streamed = client.completions.create(model="tiny", prompt="one", max_tokens=3, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == answer.choices[0].text
    assert client.completions.create(model="tiny", prompt=[5, 6], max_tokens=2).usage.prompt_tokens == 2


def test_embeddings_have_length_one_in_both_encodings(client):
    texts = ["one", "another one"]
    packed = client.embeddings.create(model="tiny", input=texts)  # the client asks for base64
    plain = client.embeddings.create(model="tiny", input=texts, encoding_format="float")
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert sum(x * x for x in one.embedding) == pytest.approx(1.0, abs=1e-4)


CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


@pytest.mark.parametrize("before", ["", "I look. ", "1 < 2, and "])
def test_tool_calls_are_parsed_whole_and_streamed(parrot_client, before):
    asked = {"model": "parrot", "messages": say(before + CALL), "tools": [WEATHER]}
    choice = parrot_client.chat.completions.create(**asked).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls[0].function.name == "get_weather"
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"city": "Paris"}
    assert (choice.message.content or "") == before
    deltas = [c.choices[0] for c in parrot_client.chat.completions.create(**asked, stream=True)]
    assert "".join(d.delta.content or "" for d in deltas) == before
    (call,) = [call for d in deltas for call in d.delta.tool_calls or ()]
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    assert deltas[-1].finish_reason == "tool_calls"


def test_with_tools_a_plain_reply_streams_as_it_comes(parrot_client):
    asked = {"model": "parrot", "messages": say("a < b and so on"), "tools": [WEATHER], "stream": True}
    pieces = [c.choices[0].delta.content for c in parrot_client.chat.completions.create(**asked)]
    assert "".join(piece or "" for piece in pieces) == "a < b and so on"
    assert len([piece for piece in pieces if piece]) > 3


def test_thoughts_are_reasoning_content_whole_and_streamed(parrot_client):
    asked = {"model": "parrot", "messages": say("<think>\nI think so.\n</think>\n\nYes, it is.")}
    message = parrot_client.chat.completions.create(**asked).choices[0].message
    assert (message.reasoning_content, message.content) == ("I think so.", "Yes, it is.")
    deltas = [c.choices[0].delta for c in parrot_client.chat.completions.create(**asked, stream=True)]
    thought = [getattr(delta, "reasoning_content", None) for delta in deltas]
    assert "".join(text or "" for text in thought) == "I think so."
    assert "".join(delta.content or "" for delta in deltas) == "Yes, it is."
    assert len([text for text in thought if text]) > 1


def test_results_of_tools_and_calls_go_back_in(parrot_client):
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "How warm "}, {"type": "text", "text": "is it?"}],
        },
        {"role": "assistant", "content": None, "tool_calls": [call, {**call, "id": "c2"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "12"},
        {"role": "tool", "tool_call_id": "c2", "content": "13"},
    ]
    answer = parrot_client.chat.completions.create(model="parrot", messages=messages, tools=[WEATHER])
    assert answer.choices[0].message.content == "13"


def test_an_asynchronous_client_gets_every_stream_whole(parrot):
    import asyncio

    async def ask(client, number):
        text = f"{number} " * 20
        stream = await client.chat.completions.create(model="parrot", messages=say(text), stream=True)
        return text, "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def ask_all():
        async with openai.AsyncOpenAI(base_url=f"{parrot.url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(6)))

    for wanted, got in asyncio.run(ask_all()):
        assert got == wanted


def test_curl_streams_events_that_end_with_done(server):
    body = json.dumps({"model": "tiny", "messages": HELLO, "stream": True})
    command = ["curl", "-sN", f"{server.url}/v1/chat/completions", "-H", "Content-Type: application/json"]
    done = subprocess.run([*command, "-d", body], capture_output=True, text=True, timeout=120, check=True)
    lines = [line for line in done.stdout.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    assert all("choices" in json.loads(line.removeprefix("data: ")) for line in lines[:-1])
