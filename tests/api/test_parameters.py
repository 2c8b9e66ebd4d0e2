"""Every documented parameter reaches the backend, or is refused by its name."""

import json

import pytest

from ridgeline.protocol import Message, Sampling, Stopping
from ridgeline.protocol.request import PRIORITY_BATCH, PRIORITY_INTERACTIVE

CHAT = {"model": "fake-model", "messages": [{"role": "user", "content": "Hi"}]}
TEXT = {"model": "fake-model", "prompt": "Hi"}


async def chat(http, **fields):
    return await http.post("/v1/chat/completions", json=CHAT | fields)


async def text(http, **fields):
    return await http.post("/v1/completions", json=TEXT | fields)


def refused(response, param):
    """The sentence of a refusal, which must be about `param`."""
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["code"] == "invalid_request"
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param, error["message"]
    assert f"`{param}`" in error["message"]
    return error["message"]


SAMPLING = [
    ({"temperature": 0}, Sampling(temperature=0.0)),
    ({"temperature": 2}, Sampling(temperature=2.0)),
    ({"top_p": 0.25}, Sampling(top_p=0.25)),
    ({"top_k": 7}, Sampling(top_k=7)),
    ({"top_k": -1}, Sampling(top_k=0)),
    ({"min_p": 0.1}, Sampling(min_p=0.1)),
    ({"repetition_penalty": 1.2}, Sampling(repetition_penalty=1.2)),
    ({"presence_penalty": -2}, Sampling(presence_penalty=-2.0)),
    ({"frequency_penalty": 2}, Sampling(frequency_penalty=2.0)),
    ({"logit_bias": {"12": -100, "5": 1.5}}, Sampling(logit_bias={12: -100.0, 5: 1.5})),
    ({"seed": -9}, Sampling(seed=-9)),
    ({"seed": None, "temperature": None, "stop": None, "n": None}, Sampling()),
]
STOPPING = [
    ({"max_tokens": 5}, Stopping(max_tokens=5)),
    ({"stop": "END"}, Stopping(stop=("END",))),
    ({"stop": ["a", "b"]}, Stopping(stop=("a", "b"))),
    ({"stop_token_ids": [3, 4]}, Stopping(stop_token_ids=(3, 4))),
    ({"min_tokens": 2}, Stopping(min_tokens=2)),
    ({"ignore_eos": True, "max_tokens": 3}, Stopping(ignore_eos=True, max_tokens=3)),
]


@pytest.mark.parametrize(("fields", "expected"), SAMPLING)
async def test_sampling_reaches_the_backend(http, fake, fields, expected):
    for ask in (chat, text):
        assert (await ask(http, **fields)).status_code == 200
        assert fake.requests[-1].sampling == expected


@pytest.mark.parametrize(("fields", "expected"), STOPPING)
async def test_stopping_reaches_the_backend(http, fake, fields, expected):
    assert (await chat(http, **fields)).status_code == 200
    assert fake.requests[-1].stopping == expected
    assert (await text(http, **{"max_tokens": 16} | fields)).status_code == 200
    assert fake.requests[-1].stopping.stop == expected.stop


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
    ],
)
async def test_chat_logprobs_reach_the_backend(http, fake, fields, expected):
    await chat(http, **fields)
    assert fake.requests[-1].sampling.logprobs == expected


async def test_completions_have_defaults_and_echo_of_their_own(http, fake):
    await text(http)
    assert fake.requests[-1].stopping.max_tokens == 16
    assert not fake.requests[-1].echo
    await text(http, echo=True, logprobs=3, max_tokens=0)
    asked = fake.requests[-1]
    assert asked.echo
    assert (asked.sampling.logprobs, asked.sampling.prompt_logprobs, asked.stopping.max_tokens) == (3, 3, 0)
    await text(http, logprobs=3)
    assert fake.requests[-1].sampling.prompt_logprobs is None


@pytest.mark.parametrize(
    ("tier", "priority", "told"),
    [
        ("auto", PRIORITY_INTERACTIVE, "default"),
        ("default", PRIORITY_INTERACTIVE, "default"),
        ("priority", PRIORITY_INTERACTIVE, "default"),
        ("flex", PRIORITY_BATCH, "flex"),
        ("batch", PRIORITY_BATCH, "flex"),
    ],
)
async def test_the_service_tier_is_the_priority(http, fake, tier, priority, told):
    response = await chat(http, service_tier=tier)
    assert fake.requests[-1].priority == priority
    assert response.json()["service_tier"] == told


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Hi", ["Hi"]),
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [(1, 2)]),
        ([[1, 2], [3]], [(1, 2), (3,)]),
    ],
)
async def test_prompts_have_four_shapes(http, fake, prompt, expected):
    assert (await text(http, prompt=prompt)).status_code == 200
    assert [asked.prompt for asked in sorted(fake.requests, key=lambda asked: asked.id)] == expected


async def test_messages_are_joined_text_and_developer_is_system(http, fake):
    parts = [{"type": "text", "text": "Hi, "}, {"type": "text", "text": "you"}]
    answer = {"role": "assistant", "content": "Ho", "refusal": None, "tool_calls": None, "annotations": []}
    messages = [{"role": "developer", "content": "Be brief"}, {"role": "user", "content": parts}, answer]
    assert (await chat(http, messages=messages)).status_code == 200
    assert fake.requests[-1].messages == (
        Message("system", "Be brief"),
        Message("user", "Hi, you"),
        Message("assistant", "Ho"),
    )


async def test_the_last_message_can_be_continued(http, fake):
    messages = [*CHAT["messages"], {"role": "assistant", "content": "Once"}]
    for fields in ({"add_generation_prompt": False}, {}):
        assert (await chat(http, messages=messages, continue_final_message=True, **fields)).status_code == 200
        assert fake.requests[-1].continue_final_message
    await chat(http, messages=messages, add_generation_prompt=True)
    assert not fake.requests[-1].continue_final_message


HARMLESS = [
    {"user": "u-1"},
    {"metadata": {"a": "b"}},
    {"safety_identifier": "s"},
    {"prompt_cache_key": "k"},
    {"parallel_tool_calls": True},
    {"store": False},
    {"tools": []},
    {"tool_choice": "none"},
    {"response_format": {"type": "text"}},
    {"modalities": ["text"]},
    {"reasoning_effort": "none"},
    {"verbosity": "medium"},
    {"audio": None, "functions": None, "prediction": None, "web_search_options": None},
    {"no_stop_trim": False, "skip_special_tokens": True, "return_hidden_states": False},
    {"separate_reasoning": True, "stream_reasoning": True},
    {"allow_smaller_model": True},
    {"stream": True, "stream_options": {"include_obfuscation": False}},
]


@pytest.mark.parametrize("fields", HARMLESS, ids=str)
async def test_what_asks_for_nothing_passes(http, fields):
    assert (await chat(http, **fields)).status_code == 200


UNSUPPORTED = {
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "required",
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
    "audio": {"voice": "alloy", "format": "wav"},
    "modalities": ["text", "audio"],
    "prediction": {"type": "content", "content": "x"},
    "response_format": {"type": "json_object"},
    "web_search_options": {},
    "store": True,
    "reasoning_effort": "high",
    "verbosity": "low",
    "moderation": {"model": "m"},
    "prompt_cache_retention": "24h",
    "prompt_cache_options": {"mode": "explicit"},
    "metadata": {"a": 1},
    "user": 5,
    "parallel_tool_calls": "yes",
    "safety_identifier": ["x"],
    "prompt_cache_key": 7,
    "no_stop_trim": True,
    "skip_special_tokens": False,
    "return_hidden_states": True,
    "separate_reasoning": "no",
}


@pytest.mark.parametrize("param", UNSUPPORTED)
async def test_what_is_not_carried_out_is_refused_by_name(http, fake, param):
    assert "not supported" in refused(await chat(http, **{param: UNSUPPORTED[param]}), param)
    assert fake.requests == []


RANGES = [
    ("temperature", -0.1, "at least 0"),
    ("temperature", 2.1, "at most 2"),
    ("top_p", 0, "more than 0"),
    ("top_p", 1.01, "at most 1"),
    ("top_k", -2, "at least -1"),
    ("min_p", 1.5, "at most 1"),
    ("repetition_penalty", 0, "more than 0"),
    ("presence_penalty", -2.5, "at least -2"),
    ("frequency_penalty", 2.5, "at most 2"),
    ("n", 0, "at least 1"),
    ("n", 17, "at most 16"),
    ("seed", 2**63, "less than"),
    ("min_tokens", -1, "at least 0"),
    ("stop", "", "empty"),
    ("stop", ["x"] * 17, "at most 16"),
    ("stop", ["x" * 2000], "1024"),
    ("logit_bias", {"x": 1}, "token ids"),
    ("logit_bias", {"5": 101}, "-100 to 100"),
    ("logit_bias", {"999999": 1}, "vocabulary"),
    ("logit_bias", {str(i): 1 for i in range(1025)}, "at most 1024"),
    ("stop_token_ids", [999999], "vocabulary"),
    ("model", "", "at least 1"),
]
TYPES = [
    ("temperature", "hot", "a number, but is 'hot'"),
    ("temperature", True, "a number, but is true"),
    ("n", 1.5, "an integer, but is 1.5"),
    ("n", "2", "an integer"),
    ("stream", "yes", "true or false"),
    ("stop", 5, "a list, but is 5"),
    ("logit_bias", [1], "an object"),
    ("service_tier", "gold", "'gold'"),
    ("ignore_eos", 1, "true or false"),
    ("stream_options", [], "an object"),
    ("model", 7, "a string"),
    ("model", None, "a string, but is null"),
]


@pytest.mark.parametrize(("param", "value", "says"), [*RANGES, *TYPES], ids=lambda value: str(value)[:30])
async def test_an_error_names_the_field_the_limit_and_the_value(http, fake, param, value, says):
    for ask in (chat, text):
        assert says in refused(await ask(http, **{param: value}), param)
    assert fake.requests == []


CHAT_ONLY = [
    ({"max_tokens": 0}, "max_tokens", "at least 1"),
    ({"max_completion_tokens": 0}, "max_completion_tokens", "at least 1"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "max_completion_tokens"),
    ({"top_logprobs": 3}, "top_logprobs", "logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "at most 20"),
    ({"logprobs": 3}, "logprobs", "true or false"),
    ({"min_tokens": 9, "max_tokens": 3}, "min_tokens", "at most"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream"),
    ({"continue_final_message": True}, "continue_final_message", "assistant"),
    ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message", "together"),
    ({"add_generation_prompt": False}, "add_generation_prompt", "continue_final_message"),
    ({"messages": []}, "messages", "at least 1"),
    ({"messages": "Hi"}, "messages", "a list"),
    ({"messages": ["Hi"]}, "messages[0]", "an object"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role", "'king'"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]", "tools"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "required"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "null"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages[0].content",
        "image_url",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content", "`text`"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content", "part 0"),
    ({"messages": [{"role": "user", "content": "x", "name": "Bo"}]}, "messages[0]", "`name`"),
    ({"messages": [{"role": "user", "content": "x", "colour": "red"}]}, "messages[0].colour", "not a known"),
]


@pytest.mark.parametrize(("fields", "param", "says"), CHAT_ONLY, ids=lambda value: str(value)[:40])
async def test_chat_has_rules_of_its_own(http, fake, fields, param, says):
    assert says in refused(await chat(http, **fields), param)
    assert fake.requests == []


TEXT_ONLY = [
    ({"max_tokens": 0}, "max_tokens", "echo"),
    ({"logprobs": 21}, "logprobs", "at most 20"),
    ({"best_of": 3}, "best_of", "`n`"),
    ({"best_of": 1, "n": 2}, "best_of", "`n`"),
    ({"suffix": "end"}, "suffix", "not supported"),
    ({"min_tokens": 17}, "min_tokens", "16"),
    ({"prompt": []}, "prompt", "empty"),
    ({"prompt": [[]]}, "prompt", "empty"),
    ({"prompt": 5}, "prompt", "but is an integer"),
    ({"prompt": ["a", 1]}, "prompt", "mix"),
    ({"prompt": [1, "a"]}, "prompt", "token ids"),
    ({"prompt": [[1], 2]}, "prompt", "token ids"),
    ({"prompt": [True]}, "prompt", "token ids"),
    ({"prompt": [-1]}, "prompt", "-1"),
    ({"prompt": [999999]}, "prompt", "vocabulary"),
    ({"prompt": [0] * (2**20 + 1)}, "prompt", "at most 1048576"),
    ({"prompt": ["x"] * 65}, "prompt", "at most 64"),
    ({"prompt": {"a": 1}}, "prompt", "an object"),
]


@pytest.mark.parametrize(("fields", "param", "says"), TEXT_ONLY, ids=lambda value: str(value)[:40])
async def test_completions_have_rules_of_their_own(http, fake, fields, param, says):
    assert says in refused(await text(http, **fields), param)
    assert fake.requests == []


async def test_best_of_may_equal_n(http):
    assert len((await text(http, best_of=2, n=2)).json()["choices"]) == 2


@pytest.mark.parametrize(
    ("key", "near"), [("temprature", "temperature"), ("max_token", "max_tokens"), ("toolz", "tools")]
)
async def test_an_unknown_key_is_told_its_nearest_known_one(http, key, near):
    assert f"`{near}`" in refused(await chat(http, **{key: 1}), key)


async def test_a_missing_field_is_named(http):
    response = await http.post("/v1/chat/completions", json={"model": "fake-model"})
    assert "required" in refused(response, "messages")


async def test_a_model_without_a_template_is_for_completions(http):
    assert "/v1/completions" in refused(await chat(http, model="no-template"), "model")
    assert (await text(http, model="no-template")).status_code == 200


@pytest.mark.parametrize("alias", ["small", "org/fake"])
async def test_an_alias_is_answered_by_name(http, fake, alias):
    response = await chat(http, model=alias)
    assert response.json()["model"] == response.headers["x-served-model"] == "fake-model"
    assert fake.requests[-1].model == "fake-model"
    assert (await http.get(f"/v1/models/{alias}")).json()["id"] == "fake-model"


async def test_an_unknown_model_is_told_which_there_are(http):
    for response in (await chat(http, model="gpt-17"), await text(http, model="gpt-17")):
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
        assert "fake-model" in error["message"] and "small" in error["message"]


async def test_tokens_that_cannot_be_drawn_have_openai_s_least_logprob(http):
    response = await chat(http, logprobs=True, top_logprobs=10)
    tops = response.json()["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    assert tops[-1]["logprob"] == -9999.0


@pytest.mark.parametrize("stream", [False, True])
async def test_parts_of_characters_are_told_apart_in_logprobs(http, stream):
    asked = {"prompt": "aé🌍z", "echo": True, "max_tokens": 0, "logprobs": 1, "stream": stream}
    response = await text(http, **asked)
    whole = (
        response.json() if not stream else json.loads(response.text.split("\n\n")[0].removeprefix("data: "))
    )
    logprobs = whole["choices"][0]["logprobs"]
    assert logprobs["tokens"] == [
        "a",
        *(f"bytes:\\x{byte:02x}" for byte in "é🌍".encode()),
        "z",
    ]
    assert logprobs["text_offset"] == [0, 1, 1, 2, 2, 2, 2, 3]
