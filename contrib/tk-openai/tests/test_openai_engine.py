"""The engine `openai` against a real server: `tk serve` on a tiny model, in a process of its own."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
from serving import Served

from tkernel.errors import TkError
from tkernel.pipeline import open_engine, open_session
from tkernel.testing import tiny
from tkernel.types.conversation import Conversation, Message
from tkernel.types.engine import Prompt, RequestSampling, Sampling

DOOR = "tk_openai:ENGINE"
GREEDY = Sampling(do_sample=False, max_new_tokens=8)
ASKED = [Conversation((Message("user", text),)) for text in ("Hi", "Who runs the inn?", "How much is 12?")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("openai")
    tiny.save_model(made / "model")
    return made


@pytest.fixture(scope="module")
def server(folder):
    """The address of a running `tk serve`."""
    running = Served(
        folder, model_name_or_path=str(folder / "model"), template="chatml", infer_dtype="float32"
    )
    yield running.address
    running.close()


def engine_at(folder, address, **options):
    settings = {"infer_backend": DOOR, "openai_base_url": address, **options}
    words = [f"{key}={value}" for key, value in settings.items()]
    return open_engine(
        open_session(folder / "run.yaml", overrides=words, calls=("model", "template", "engine"))
    )


@pytest.fixture(scope="module")
def remote(folder, server):
    engine = engine_at(folder, server)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def local(folder, server):
    engine = open_engine(open_session(folder / "run.yaml"))
    yield engine
    engine.close()


def test_greedy_replies_are_those_of_the_engine_in_memory(remote, local):
    expected, found = local.reply(ASKED, GREEDY), remote.reply(ASKED, GREEDY)
    assert [reply.text for reply in found] == [reply.text for reply in expected]
    assert [reply.finish_reason for reply in found] == [reply.finish_reason for reply in expected]
    assert [reply.prompt_tokens for reply in found] == [reply.prompt_tokens for reply in expected]


def test_no_weights_are_loaded_here(folder, server):
    session = open_session(
        folder / "run.yaml", overrides=[f"infer_backend={DOOR}", f"openai_base_url={server}"]
    )
    open_engine(session).close()
    assert remote_module(session) is None


def remote_module(session):
    from tkernel.pipeline import load_model

    return load_model(session, trainable=False, weights=False).module


def test_pieces_come_one_by_one_and_join_to_the_reply(remote):
    deltas = list(remote.stream(ASKED, GREEDY))
    replies = remote.reply(ASKED, GREEDY)
    for index, reply in enumerate(replies):
        mine = [delta for delta in deltas if delta.index == index]
        assert "".join(delta.text for delta in mine) == reply.text
        assert [delta.finish_reason for delta in mine] == [None] * (len(mine) - 1) + [reply.finish_reason]
    assert len(deltas) > len(ASKED) * 2


def test_a_seed_decides_what_is_drawn_and_n_replies_differ(remote):
    sampling = RequestSampling(temperature=1.5, top_p=1.0, max_new_tokens=12, seed=7, n=2)
    first, second = (remote.reply(ASKED[:1], sampling) for _ in range(2))
    assert [reply.text for reply in first] == [reply.text for reply in second]
    assert first[0].text != first[1].text
    other = remote.reply(ASKED[:1], replace(sampling, seed=99))
    assert [reply.text for reply in other] != [reply.text for reply in first]


def test_a_stop_text_ends_the_reply(remote, local):
    whole = local.reply(ASKED[:1], GREEDY)[0].text
    stop = whole[len(whole) // 2 :][:2]
    found = remote.reply(ASKED[:1], replace(GREEDY, stop=(stop,)))[0]
    assert found.text == whole[: whole.index(stop)]
    assert found.finish_reason == "stop"


def test_log_probabilities_are_those_of_the_engine_in_memory(remote, local):
    sampling = replace(GREEDY, logprobs=2)
    expected, found = (engine.reply(ASKED[:1], sampling)[0] for engine in (local, remote))
    assert len(found.logprobs) == len(expected.logprobs)
    for one, other in zip(found.logprobs, expected.logprobs, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)


def test_a_prompt_of_ids_is_continued(remote, local):
    prompt = Prompt(ids=(20, 21, 22))
    assert remote.reply([prompt], GREEDY)[0].text == local.reply([prompt], GREEDY)[0].text


def test_chat_mode_lets_the_server_render(folder, server, local):
    engine = engine_at(folder, server, openai_mode="chat")
    assert [r.text for r in engine.reply(ASKED, GREEDY)] == [r.text for r in local.reply(ASKED, GREEDY)]
    with pytest.raises(TkError, match="takes calls of tools out of a reply"):
        engine.reply([ASKED[0].replace(tools=({"type": "function", "function": {"name": "f"}},))], GREEDY)
    engine.close()


def test_closing_a_stream_frees_its_place(remote):
    stream = remote.stream(ASKED, replace(GREEDY, max_new_tokens=400))
    next(stream)
    stream.close()
    assert remote.reply(ASKED[:1], GREEDY)[0].text


def test_a_server_that_is_not_there_and_a_model_that_it_lacks_are_told(folder, server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(TkError, match="nobody answers at"):
        engine_at(folder, nobody)
    with pytest.raises(TkError, match="has no model 'gpt-9'"):
        engine_at(folder, server, openai_model="gpt-9")


def test_beams_and_what_the_server_refuses_are_errors(remote):
    with pytest.raises(TkError, match="cannot search with beams"):
        remote.reply(ASKED, replace(GREEDY, num_beams=2))
    with pytest.raises(TkError, match="answers 400"):
        remote.reply(
            ASKED[:1], replace(GREEDY, max_new_tokens=10**6, temperature=0.5, do_sample=True, top_k=-5)
        )
