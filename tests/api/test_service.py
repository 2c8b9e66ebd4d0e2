"""Health, metrics, models, tokens, and refusals that come from the backend."""

import httpx
import pytest

from ridgeline.api.app import create_app
from ridgeline.api.settings import ApiSettings
from ridgeline.protocol import Refusal

ASK = {"model": "fake-model", "prompt": "Hi"}


@pytest.mark.parametrize(
    ("state", "status"), [("ready", 200), ("starting", 503), ("draining", 503), ("failed", 503)]
)
async def test_alive_and_ready_are_two_answers(http, fake, state, status):
    fake.state = state
    assert (await http.get("/health/live")).status_code == 200
    response = await http.get("/health/ready")
    assert (response.status_code, response.json()["status"]) == (status, state)
    if status == 503:
        assert response.json()["detail"] == "the weights are being read"


async def test_full_is_still_ready(http, fake):
    assert (await http.get("/health/ready")).json()["full"] is False
    fake.full = True
    response = await http.get("/health/ready")
    assert (response.status_code, response.json()["full"]) == (200, True)


async def test_load_balancers_may_ask_with_head(http):
    assert (await http.head("/health/live")).status_code == 200
    assert (await http.head("/health/ready")).status_code == 200
    assert (await http.head("/health")).status_code == 200


async def test_metrics_are_prometheus_text(http, app):
    app.state.metrics.engine("fake-model").preempted()
    response = await http.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'ridgeline_preemptions_total{model="fake-model"} 1.0' in response.text


async def test_the_dashboard_has_every_engine_and_is_never_kept(http, app):
    app.state.metrics.engine("fake-model", blocks_total=10).preempted()
    response = await http.get("/dashboard/live")
    assert response.headers["cache-control"] == "no-store"
    shown = response.json()["models"]["fake-model"]
    assert shown["values"]["ridgeline_preemptions_total"] == 1
    assert shown["verdict"]["resource"] == "idle"
    assert shown["recent"]["counters"]["ridgeline_preemptions_total"] == 1


async def test_without_metrics_there_is_no_such_path(fake):
    transport = httpx.ASGITransport(create_app(fake, ApiSettings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as bare:
        assert (await bare.get("/metrics")).status_code == 404
        assert (await bare.get("/dashboard/live")).status_code == 404
        assert (await bare.get("/v1/models")).status_code == 200


async def test_models_tell_their_context(http):
    response = await http.get("/v1/models")
    assert response.json()["object"] == "list"
    first = response.json()["data"][0]
    assert first["id"] == "fake-model"
    assert first["max_model_len"] == 1024
    assert first["aliases"] == ["small", "org/fake"]
    assert (await http.get("/v1/models/gpt-17")).json()["error"]["code"] == "model_not_found"


async def test_text_becomes_tokens_and_tokens_text(http):
    response = await http.post("/tokenize", json={"model": "small", "prompt": "hé"})
    assert response.json() == {"count": 3, "max_model_len": 1024, "tokens": list("hé".encode())}
    response = await http.post("/detokenize", json={"model": "small", "tokens": response.json()["tokens"]})
    assert response.json() == {"prompt": "hé"}


async def test_a_conversation_becomes_tokens(http):
    messages = [{"role": "developer", "content": [{"type": "text", "text": "A"}]}]
    response = await http.post("/tokenize", json={"model": "small", "messages": messages})
    assert bytes(response.json()["tokens"]) == b"<system>A"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt"),
        ({"prompt": ["a"]}, "prompt"),
        ({"prompt": "a", "add_special_tokens": False}, "add_special_tokens"),
        ({"prompt": "a", "return_token_strs": True}, "return_token_strs"),
        ({"prompt": "a", "temperature": 1}, "temperature"),
    ],
)
async def test_what_cannot_be_tokenised_is_refused(http, fields, param):
    response = await http.post("/tokenize", json={"model": "small"} | fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("tokens", [[-1], [266], ["a"], "abc", [1.5], None])
async def test_what_is_no_token_is_refused(http, tokens):
    response = await http.post("/detokenize", json={"model": "small", "tokens": tokens})
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("tokens")


REFUSALS = [
    (Refusal("invalid_request", "no", param="prompt"), 400, "invalid_request_error", None),
    (Refusal("context_length_exceeded", "no", param="messages"), 400, "invalid_request_error", None),
    (Refusal("model_not_found", "no"), 404, "invalid_request_error", None),
    (Refusal("rate_limited", "no", retry_after_seconds=2.1), 429, "rate_limit_error", "3"),
    (Refusal("at_capacity", "no", retry_after_seconds=12.3456), 503, "capacity_error", "13"),
    (Refusal("at_capacity", "no", retry_after_seconds=0.01), 503, "capacity_error", "1"),
    (Refusal("no_replica", "no"), 503, "capacity_error", None),
    (Refusal("shutting_down", "no"), 503, "capacity_error", None),
    (Refusal("internal_error", "no"), 500, "server_error", None),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("refusal", "status", "kind", "retry"), REFUSALS, ids=lambda value: str(value)[:20])
async def test_a_refusal_is_told_as_it_is(http, fake, refusal, status, kind, retry, stream):
    fake.refuse = refusal
    response = await http.post("/v1/completions", json=ASK | {"stream": stream})
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"]) == (status, kind, refusal.code)
    assert (error["message"], error["param"]) == ("no", refusal.param)
    assert response.headers.get("retry-after") == retry
    wait = round(refusal.retry_after_seconds, 3) if refusal.code == "at_capacity" else None
    assert error.get("estimated_wait_seconds") == wait


async def test_an_answer_ended_by_draining_says_so(http, fake):
    fake.cancel_after = 1
    fake.state = "draining"
    response = await http.post("/v1/completions", json=ASK)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "shutting_down")
    fake.state = "ready"
    response = await http.post("/v1/completions", json=ASK)
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")


async def test_who_keeps_no_log_of_its_cache_says_so(http):
    assert (await http.get("/v1/fleet/cache", params={"model": "fake-model"})).status_code == 404
