"""The official client against a real server. It knows only `base_url` and `model`: see conftest."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator

import openai
import pytest

HELLO = [{"role": "user", "content": "Say hello, please."}]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def client(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url, api_key="any", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
async def aclient(base_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="any", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
def ask(model: str) -> dict[str, object]:
    return {"model": model, "messages": HELLO, "max_tokens": 6, "temperature": 0}


def texts(chunks, index=0):
    return "".join(
        choice.delta.content or "" for chunk in chunks for choice in chunk.choices if choice.index == index
    )


def finishes(chunks):
    return [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]


def test_a_chat_completion_has_an_answer_and_its_usage(client, ask, model):
    answer = client.chat.completions.create(**ask)
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.model == model
    assert answer.system_fingerprint
    usage = answer.usage
    assert 0 < usage.completion_tokens <= 6
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 <= usage.prompt_tokens_details.cached_tokens <= usage.prompt_tokens


def test_a_stream_gives_the_same_text_as_a_whole_answer(client, ask):
    whole = client.chat.completions.create(**ask)
    chunks = list(client.chat.completions.create(**ask, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert texts(chunks) == whole.choices[0].message.content
    assert finishes(chunks) == [whole.choices[0].finish_reason]
    assert all(chunk.usage is None for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1


def test_usage_ends_a_stream_when_asked_for(client, ask):
    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []
    usage = chunks[-1].usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 <= usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens


async def test_the_async_client_streams_and_asks_at_once(aclient, ask):
    whole, stream = await asyncio.gather(
        aclient.chat.completions.create(**ask), aclient.chat.completions.create(**ask, stream=True)
    )
    assert texts([chunk async for chunk in stream]) == whole.choices[0].message.content


def test_the_streaming_helper_puts_the_answer_together(client, ask):
    with client.chat.completions.stream(**ask) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.current_completion_snapshot
    assert "".join(deltas) == final.choices[0].message.content != ""


def test_the_raw_response_tells_what_served(client, ask, model):
    raw = client.chat.completions.with_raw_response.create(
        **ask, extra_headers={"x-request-id": "my-own.id_1"}
    )
    assert raw.headers["x-request-id"] == "my-own.id_1"
    assert raw.headers["x-served-model"] == model
    assert raw.parse().choices


def test_every_one_of_n_answers_has_its_index(client, ask):
    answer = client.chat.completions.create(**ask | {"temperature": 1.0, "seed": 5}, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all(choice.message.content for choice in answer.choices)
    chunks = list(client.chat.completions.create(**ask | {"temperature": 1.0, "seed": 5}, n=3, stream=True))
    assert [texts(chunks, index) for index in range(3)] == [
        choice.message.content for choice in answer.choices
    ]
    assert len(finishes(chunks)) == 3


def test_a_seed_fixes_what_is_drawn(client, ask):
    ask |= {"temperature": 1.5, "max_tokens": 24}

    def draw(seed: int) -> str:
        return client.chat.completions.create(**ask, seed=seed).choices[0].message.content

    assert draw(11) == draw(11)
    assert len({draw(seed) for seed in range(5)}) > 1


def test_a_stop_string_ends_the_answer_and_is_cut_off(client, ask):
    ask["max_tokens"] = 24
    whole = client.chat.completions.create(**ask).choices[0].message.content
    stop = whole[len(whole) // 2 :][:3]
    before = whole[: whole.index(stop)]
    stopped = client.chat.completions.create(**ask, stop=[stop, "never in it"]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (before, "stop")
    assert texts(list(client.chat.completions.create(**ask, stop=stop, stream=True))) == before


def test_max_tokens_and_its_newer_name_end_the_answer(client, ask):
    ask.pop("max_tokens")
    forced = {"extra_body": {"ignore_eos": True}}
    for limit in ({"max_tokens": 3}, {"max_completion_tokens": 3}):
        answer = client.chat.completions.create(**ask, **limit, **forced)
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.completion_tokens == 3


def test_logprobs_come_with_bytes_and_alternatives(client, ask):
    answer = client.chat.completions.create(**ask, logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    assert len(content) >= answer.usage.completion_tokens - 1
    assert (
        b"".join(bytes(token.bytes) for token in content)
        .decode(errors="replace")
        .startswith(answer.choices[0].message.content)
    )
    for token in content:
        assert -9999.0 <= token.logprob <= 0
        assert len(token.top_logprobs) == 3
        ranks = [top.logprob for top in token.top_logprobs]
        assert ranks == sorted(ranks, reverse=True)
        # Greedy; in bfloat16 the two best are often equal, and then either may come first.
        assert token.top_logprobs[0].logprob == token.logprob
    chunks = list(client.chat.completions.create(**ask, logprobs=True, top_logprobs=3, stream=True))
    streamed = [
        token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content
    ]
    assert [token.token for token in streamed] == [token.token for token in content]


def test_logprobs_alone_have_no_alternatives(client, ask):
    content = client.chat.completions.create(**ask, logprobs=True).choices[0].logprobs.content
    assert content
    assert all(token.top_logprobs == [] for token in content)


def test_completions_continue_a_text(client, model):
    ask = {"model": model, "prompt": "Once upon a", "max_tokens": 4, "temperature": 0}
    answer = client.completions.create(**ask)
    assert answer.object == "text_completion"
    assert answer.choices[0].text
    chunks = list(
        client.completions.create(model=model, prompt="Once upon a", max_tokens=4, temperature=0, stream=True)
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text


def test_several_prompts_have_answers_in_their_order(client, model):
    ask = {"model": model, "max_tokens": 4, "temperature": 0}
    prompts = ["One two", "Three four five", "Six"]
    together = client.completions.create(prompt=prompts, n=2, **ask)
    assert [choice.index for choice in together.choices] == list(range(6))
    alone = [client.completions.create(prompt=prompt, n=2, **ask) for prompt in prompts]
    assert [choice.text for choice in together.choices] == [
        choice.text for answer in alone for choice in answer.choices
    ]
    assert together.usage.prompt_tokens == sum(answer.usage.prompt_tokens for answer in alone)
    assert together.usage.completion_tokens == sum(answer.usage.completion_tokens for answer in alone)
    chunks = list(client.completions.create(prompt=prompts, n=2, stream=True, **ask))
    for choice in together.choices:
        assert choice.text == "".join(
            chunk.choices[0].text for chunk in chunks if chunk.choices[0].index == choice.index
        )


def test_token_ids_are_a_prompt(client, base_url, model):
    ids = client.post(
        f"{base_url.removesuffix('/v1')}/tokenize",
        body={"model": model, "prompt": "Hello there"},
        cast_to=object,
    )["tokens"]
    ask = {"model": model, "max_tokens": 4, "temperature": 0}
    assert (
        client.completions.create(prompt=ids, **ask).choices[0].text
        == client.completions.create(prompt=[ids], **ask).choices[0].text
        == client.completions.create(prompt="Hello there", **ask).choices[0].text
    )


def test_echo_begins_with_the_prompt_and_can_score_it(client, model):
    ask = {"model": model, "prompt": "Hello there", "temperature": 0, "echo": True}
    answer = client.completions.create(**ask, max_tokens=3)
    assert answer.choices[0].text.startswith("Hello there")
    scored = client.completions.create(**ask, max_tokens=0, logprobs=1)
    assert scored.choices[0].text == "Hello there"
    logprobs = scored.choices[0].logprobs
    assert len(logprobs.tokens) == scored.usage.prompt_tokens
    assert logprobs.token_logprobs[0] is None
    assert all(-math.inf < logprob <= 0 for logprob in logprobs.token_logprobs[1:])
    assert logprobs.text_offset[0] == 0
    assert scored.usage.completion_tokens == 0


def test_completion_logprobs_count_offsets_across_a_stream(client, model):
    ask = {"model": model, "prompt": LETTERS, "max_tokens": 5, "temperature": 0, "logprobs": 2}
    whole = client.completions.create(**ask).choices[0].logprobs
    parts = [chunk.choices[0].logprobs for chunk in client.completions.create(**ask, stream=True)]
    parts = [part for part in parts if part]
    assert [token for part in parts for token in part.tokens] == whole.tokens
    assert [offset for part in parts for offset in part.text_offset] == whole.text_offset
    assert all(token in top for token, top in zip(whole.tokens, whole.top_logprobs, strict=True))


def test_models_are_listed(client, model):
    assert model in [listed.id for listed in client.models.list()]
    assert client.models.retrieve(model).id == model


def test_errors_become_the_clients_exceptions(client, ask, model):
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(**ask | {"model": "gpt-17"})
    assert unknown.value.code == "model_not_found"
    assert model in unknown.value.message
    with pytest.raises(openai.BadRequestError) as hot:
        client.chat.completions.create(**ask | {"temperature": 3})
    assert (hot.value.code, hot.value.param) == ("invalid_request", "temperature")
    assert "2" in hot.value.message and "3" in hot.value.message
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(**ask | {"messages": [{"role": "user", "content": "word " * 20000}]})
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as tools:
        client.chat.completions.create(**ask, tools=[{"type": "function", "function": {"name": "f"}}])
    assert tools.value.param == "tools"


def test_a_stream_can_be_left_and_the_server_goes_on(client, ask):
    stream = client.chat.completions.create(**ask, stream=True)
    next(iter(stream))
    stream.close()
    assert client.chat.completions.create(**ask).choices[0].message.content
