"""The official client against a real server. Swap `base_url` and `model` to test another one."""

from collections.abc import Iterator

import openai
import pytest

HELLO = [{"role": "user", "content": "Say hello, please."}]


@pytest.fixture
def client(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url, api_key="any", max_retries=0, timeout=30) as client:
        yield client


def test_a_chat_completion_has_an_answer_and_its_usage(client, model):
    answer = client.chat.completions.create(model=model, messages=HELLO, max_tokens=5, temperature=0)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.model == model
    usage = answer.usage
    assert 0 < usage.completion_tokens <= 5
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens >= 0


def test_a_stream_gives_the_same_text_as_a_whole_answer(client, model):
    ask = {"model": model, "messages": HELLO, "max_tokens": 6, "temperature": 0}
    whole = client.chat.completions.create(**ask)
    chunks = list(client.chat.completions.create(**ask, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    )
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == [
        whole.choices[0].finish_reason
    ]
    assert all(chunk.usage is None for chunk in chunks)


def test_models_are_listed(client, model):
    assert model in [listed.id for listed in client.models.list()]
    assert client.models.retrieve(model).id == model
