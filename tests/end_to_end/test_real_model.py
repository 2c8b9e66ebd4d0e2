"""A real model answers with sense, and what leaves or repeats costs nothing more."""

import asyncio
import time

import openai
import pytest

CAPITAL = [{"role": "user", "content": "What is the capital of France? Answer in one short sentence."}]


@pytest.fixture
def client(base_url: str):
    with openai.OpenAI(base_url=base_url, api_key="any", max_retries=0, timeout=60) as client:
        yield client


def eventually(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_a_question_is_answered_with_sense(client, model) -> None:
    answer = client.chat.completions.create(model=model, messages=CAPITAL, temperature=0, max_tokens=30)
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"


def test_a_second_turn_finds_the_first_in_the_cache(client, model, metrics) -> None:
    turns = [{"role": "user", "content": "Tell me a long story about a lighthouse and its keeper."}]
    first = client.chat.completions.create(model=model, messages=turns, temperature=0, max_tokens=60)
    turns.append({"role": "assistant", "content": first.choices[0].message.content})
    turns.append({"role": "user", "content": "And then?"})
    hits = metrics("ridgeline_prefix_tokens_total", result="hit")
    second = client.chat.completions.create(model=model, messages=turns, temperature=0, max_tokens=5)
    cached = second.usage.prompt_tokens_details.cached_tokens
    # Everything of the first turn but its last, unfinished block.
    assert cached >= (first.usage.total_tokens - 1) // 16 * 16 - 16
    assert metrics("ridgeline_prefix_tokens_total", result="hit") == hits + cached


def test_a_client_that_goes_away_frees_its_blocks(client, model, metrics) -> None:
    def running() -> float:
        return metrics("ridgeline_requests", state="running")

    eventually(lambda: running() == 0)
    stream = client.chat.completions.create(
        model=model, messages=CAPITAL, max_tokens=2000, stream=True, extra_body={"ignore_eos": True}
    )
    for _ in zip(range(3), stream, strict=False):
        pass
    assert running() == 1
    assert metrics("ridgeline_kv_utilization_ratio", tier="device") > 0
    cancelled = metrics("ridgeline_requests_total", outcome="cancelled")
    stream.close()
    eventually(lambda: running() == 0)
    eventually(lambda: metrics("ridgeline_kv_utilization_ratio", tier="device") == 0)
    assert metrics("ridgeline_requests_total", outcome="cancelled") == cancelled + 1


@pytest.mark.slow
async def test_many_at_once_are_each_answered_to_the_end(base_url, model) -> None:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="any", max_retries=0, timeout=100) as client:
        answers = await asyncio.gather(
            *(
                client.chat.completions.create(
                    model=model,
                    messages=[{"role": "user", "content": f"Count from {i} upwards."}],
                    max_tokens=12,
                    extra_body={"ignore_eos": True},
                )
                for i in range(40)
            )
        )
    assert [a.usage.completion_tokens for a in answers] == [12] * 40
