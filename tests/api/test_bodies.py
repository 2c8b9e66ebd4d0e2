"""Whatever is sent as a body: the answer is OpenAI's error body, and never a failure of ours."""

import asyncio
import json
import string

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fakes import FakeBackend
from ridgeline.api.app import create_app
from ridgeline.api.schemas_chat import ChatRequest
from ridgeline.api.schemas_completions import CompletionRequest
from ridgeline.api.settings import ApiSettings
from ridgeline.api.unsupported import CHAT, COMPLETIONS

JSON = {"content-type": "application/json"}
PATHS = ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize")


def body_of(response: httpx.Response) -> dict[str, object]:
    """The error of a response that must be one, in OpenAI's shape."""
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    error = response.json()["error"]
    assert error.keys() - {"estimated_wait_seconds"} == {"message", "type", "param", "code"}
    assert error["message"]
    return error


MALFORMED = {
    "empty": b"",
    "cut off": b'{"model": "fake',
    "not a number": b'{"model": "fake-model", "messages": [], "temperature": NaN}',
    "infinity": b'{"temperature": Infinity}',
    "too large a number": b'{"temperature": 1e999}',
    "invalid UTF-8": b'{"model": "\xff\xfe"}',
    "lone surrogate": b'{"model": "\\ud800"}',
    "too deep": b'{"messages": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "a list": b"[1, 2]",
    "a string": b'"hello"',
    "null": b"null",
    "byte order mark": b"\xef\xbb\xbf{}",
    "single quotes": b"{'model': 'fake-model'}",
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_body_is_refused(http, path, name):
    response = await http.post(path, content=MALFORMED[name], headers=JSON)
    assert response.status_code == 400
    error = body_of(response)
    assert (error["code"], error["param"]) == ("invalid_request", None)
    assert "JSON" in error["message"]


async def test_depth_that_json_allows_is_refused_by_the_schema(http):
    deep = b'{"model": "fake-model", "messages": ' + b"[" * 900 + b"]" * 900 + b"}"
    response = await http.post(PATHS[0], content=deep, headers=JSON)
    assert (response.status_code, body_of(response)["param"]) == (400, "messages[0]")


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_a_body_must_be_declared_as_json(http, content_type):
    headers = {"content-type": content_type} if content_type else {}
    response = await http.post(PATHS[0], content=b"{}", headers=headers)
    assert response.status_code == 400
    assert "application/json" in body_of(response)["message"]


async def test_the_content_type_may_name_its_charset(http):
    body = orjson.dumps({"model": "fake-model", "prompt": "ä"})
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert (await http.post("/v1/completions", content=body, headers=headers)).status_code == 200


async def test_a_compressed_body_is_refused(http):
    response = await http.post(PATHS[0], content=b"{}", headers=JSON | {"content-encoding": "gzip"})
    assert response.status_code == 400
    assert "gzip" in body_of(response)["message"]


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/chat", "/v1/chat/completions/", "/v2/models", "/%00", "/a b"]
)
async def test_an_unknown_path_has_the_same_error_body(http, path):
    response = await http.get(path)
    assert (response.status_code, body_of(response)["code"]) == (404, "invalid_request")
    assert "/v1/chat/completions" in body_of(response)["message"]


@pytest.mark.parametrize("path", PATHS)
async def test_a_wrong_method_has_the_same_error_body(http, path):
    response = await http.get(path)
    assert (response.status_code, body_of(response)["code"]) == (405, "invalid_request")
    assert response.headers["allow"] == "POST"
    assert "POST" in response.json()["error"]["message"]


@pytest.mark.parametrize("offered", ["a b", "x" * 65, "é", "a\tb", "<script>", ""])
async def test_an_unsafe_request_id_is_replaced(http, offered):
    response = await http.get("/v1/models", headers={"x-request-id": offered.encode()})
    assert response.headers["x-request-id"] != offered
    assert len(response.headers["x-request-id"]) == 32


async def test_a_failure_of_ours_tells_the_id_and_logs_neither_prompt_nor_message(http, fake, caplog):
    fake.fail_after = 0
    ask = {"model": "fake-model", "prompt": "my secret prompt"}
    response = await http.post("/v1/completions", json=ask, headers={"x-request-id": "find-me"})
    assert response.status_code == 500
    error = body_of(response)
    assert error["code"] == "internal_error"
    assert "find-me" in error["message"]
    assert "secret" not in response.text and "bus" not in response.text
    assert "find-me" in caplog.text and "RuntimeError" in caplog.text and "fakes.py" in caplog.text
    assert "secret" not in caplog.text and "bus" not in caplog.text


async def test_a_failure_that_led_to_another_is_logged_too(http, fake, caplog, monkeypatch):
    typed = "my " + "secret"

    def models():
        try:
            raise KeyError(typed)
        except KeyError as error:
            raise ValueError(typed) from error

    monkeypatch.setattr(fake, "models", models)
    assert (await http.get("/v1/models")).status_code == 500
    assert "KeyError" in caplog.text and "ValueError" in caplog.text
    assert typed not in caplog.text


_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=string.printable + "é🌍\x00", max_size=12)
    | st.sampled_from(["fake-model", "user", "assistant", "text", "auto", "flex"])
)
_inner_keys = st.sampled_from(["role", "content", "type", "text", "5", "include_usage"])
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_inner_keys, inner, max_size=4),
    max_leaves=12,
)
_known = {*ChatRequest.model_fields, *CompletionRequest.model_fields, *CHAT, *COMPLETIONS}
_keys = st.sampled_from(sorted({*_known, "tokens", "other"}))
_message = {"role": st.sampled_from(["user", "assistant"]), "content": st.text(max_size=9)}
_plausible = {
    "model": st.just("fake-model"),
    "messages": st.lists(st.fixed_dictionaries(_message), max_size=3),
    "prompt": st.text(max_size=9) | st.lists(st.integers(0, 300), max_size=4),
    "tokens": st.lists(st.integers(0, 300), max_size=4),
}
_bodies = st.builds(
    lambda base, extra: base | extra,
    st.fixed_dictionaries({}, optional=_plausible),
    st.dictionaries(_keys, _values, max_size=4),
)


def post(path: str, data: bytes) -> httpx.Response:
    """One request to an app of its own."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(FakeBackend(), ApiSettings()))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post(path, content=data, headers=JSON)

    return asyncio.run(send())


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(path=st.sampled_from(PATHS), body=_bodies)
def test_no_body_makes_the_server_fail(path, body):
    response = post(path, json.dumps(body).encode())
    assert response.status_code in (200, 400, 404)
    if response.status_code != 200:
        body_of(response)


@hypothesis_settings(max_examples=100, deadline=None)
@given(path=st.sampled_from(PATHS), data=st.binary(max_size=40))
def test_no_bytes_make_the_server_fail(path, data):
    body_of(post(path, data))
