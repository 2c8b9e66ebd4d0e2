"""Keys, names of the server, pages of other sites."""

import httpx
import pytest

from ridgeline.api.settings import ApiSettings

ASK = {"model": "fake-model", "prompt": "Hi"}
KEYS = {"alice": "key-of-alice", "bob": "key-of-bob"}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


class TestKeys:
    @pytest.fixture
    def settings(self):
        return ApiSettings(api_keys=KEYS)

    async def test_the_keys_owner_is_the_tenant(self, http, fake):
        for name, key in KEYS.items():
            assert (await http.post("/v1/completions", json=ASK, headers=bearer(key))).status_code == 200
            assert fake.requests[-1].tenant == name

    @pytest.mark.parametrize(
        "header",
        [
            None,
            "",
            "Bearer",
            "Bearer ",
            "Bearer key-of-alic",
            "Bearer key-of-alicee",
            "Bearer key-of-alice key-of-bob",
            "Basic key-of-alice",
            "key-of-alice",
            "Bearer ké",
        ],
    )
    @pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"])
    async def test_without_a_right_key_nothing_is_served(self, http, fake, header, path):
        headers = {} if header is None else {"authorization": header.encode()}
        response = await http.post(path, json=ASK, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
        assert fake.requests == []
        assert "alic" not in response.text

    @pytest.mark.parametrize("path", ["/v1/models", "/v1/models/fake-model", "/metrics", "/dashboard/live"])
    async def test_reading_needs_a_key_too(self, http, path):
        assert (await http.get(path)).status_code == 401
        assert (await http.get(path, headers=bearer("key-of-bob"))).status_code == 200

    async def test_a_missing_key_is_told_before_the_body_is_looked_at(self, http):
        assert (await http.post("/v1/completions", content=b"{")).status_code == 401

    async def test_health_is_open(self, http):
        assert (await http.get("/health/live")).status_code == 200
        assert (await http.get("/health/ready")).status_code == 200

    async def test_the_scheme_is_not_case_sensitive(self, http):
        headers = {"authorization": "bearer  key-of-bob"}
        assert (await http.get("/v1/models", headers=headers)).status_code == 200

    async def test_a_key_beyond_ascii_works(self, app, http):
        app.state.keys.__init__({"cy": "schlüssel"})
        headers = {"authorization": "Bearer schlüssel".encode()}
        assert (await http.get("/v1/models", headers=headers)).status_code == 200


class TestPublicMetrics:
    @pytest.fixture
    def settings(self):
        return ApiSettings(api_keys=KEYS, public_metrics=True)

    async def test_metrics_need_no_key_where_they_are_public(self, http):
        assert (await http.get("/metrics")).status_code == 200
        assert (await http.get("/dashboard/live")).status_code == 200
        assert (await http.get("/v1/models")).status_code == 401


async def test_without_keys_everybody_is_local(http, fake):
    await http.post("/v1/completions", json=ASK)
    assert fake.requests[-1].tenant == "local"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:9", 200),
        ("[::1]:8000", 200),
        ("ridgeline.example", 200),
        ("a.pods.example:80", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("pods.example", 403),
        ("evilpods.example", 403),
        ("10.0.0.5", 403),
        ("[", 403),
        ("", 403),
    ],
)
class TestHostsOnTheLoopbackAddress:
    @pytest.fixture
    def settings(self):
        return ApiSettings(allowed_hosts=("ridgeline.example", "*.pods.example"))

    async def test_only_known_names_are_served(self, http, host, status):
        response = await http.get("/health/live", headers={"host": host})
        assert response.status_code == status
        if status == 403:
            assert response.json()["error"]["code"] == "forbidden"
            assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("host", "status"),
    [("10.0.0.5:8000", 200), ("[2001:db8::1]", 200), ("localhost", 200), ("evil.example", 403)],
)
class TestHostsOnTheNetwork:
    @pytest.fixture
    def settings(self):
        return ApiSettings(host="0.0.0.0", api_keys=KEYS)

    async def test_numeric_addresses_are_served_too(self, http, host, status):
        assert (await http.get("/health/live", headers={"host": host})).status_code == status


async def call(http: httpx.AsyncClient, origin: str, method: str = "GET", **headers: str) -> httpx.Response:
    headers = {"origin": origin, "host": "localhost:8000"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    return await http.request(method, "/v1/models", headers=headers)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:8000", 200),
        ("https://chat.example", 200),
        ("http://localhost:3000", 403),
        ("http://localhost", 403),
        ("https://chat.example.evil", 403),
        ("http://chat.example", 403),
        ("null", 403),
        ("http://[", 403),
        ("", 403),
    ],
)
class TestOrigins:
    @pytest.fixture
    def settings(self):
        return ApiSettings(allowed_origins=("https://chat.example",))

    async def test_pages_of_other_sites_are_refused(self, http, origin, status):
        response = await call(http, origin)
        assert response.status_code == status
        allowed = response.headers.get("access-control-allow-origin")
        assert allowed == ("https://chat.example" if origin == "https://chat.example" else None)


class TestCors:
    @pytest.fixture
    def settings(self):
        return ApiSettings(allowed_origins=("https://chat.example",), api_keys=KEYS, max_requests=1)

    async def test_a_preflight_needs_no_key(self, http):
        asked = {"access_control_request_method": "POST", "access_control_request_headers": "authorization"}
        response = await call(http, "https://chat.example", "OPTIONS", **asked)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "https://chat.example"
        assert "POST" in response.headers["access-control-allow-methods"]
        assert "authorization" in response.headers["access-control-allow-headers"]

    async def test_a_page_may_read_refusals_and_failures(self, http, fake, monkeypatch):
        response = await call(http, "https://chat.example")
        assert response.status_code == 401
        assert response.headers["access-control-allow-origin"] == "https://chat.example"
        monkeypatch.setattr(fake, "models", lambda: 1 / 0)
        response = await call(http, "https://chat.example", **bearer("key-of-bob"))
        assert response.status_code == 500
        assert response.headers["access-control-allow-origin"] == "https://chat.example"
        assert "x-request-id" in response.headers["access-control-expose-headers"].lower()


async def test_by_default_no_page_but_our_own_may_call(http):
    asked = {"access_control_request_method": "POST"}
    response = await call(http, "https://chat.example", "OPTIONS", **asked)
    assert response.status_code == 403
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"host": "0.0.0.0"}, "--api-key"),
        ({"host": "192.168.1.5"}, "--api-key"),
        ({"host": "my-machine"}, "--api-key"),
        ({"api_keys": {"a": ""}}, "'a'"),
        ({"api_keys": {"": "x"}}, "name"),
        ({"api_keys": {"a": "x", "b": "x"}}, "same value"),
        ({"allowed_hosts": ("http://a.example",)}, "http://a.example"),
        ({"allowed_hosts": ("a.example:80",)}, "a.example:80"),
        ({"allowed_hosts": ("*",)}, "allowed host"),
        ({"allowed_origins": ("*",)}, "allowed origin"),
        ({"allowed_origins": ("https://a.example/",)}, "https://a.example/"),
        ({"max_requests": 0}, "max_requests"),
        ({"max_body_bytes": -1}, "max_body_bytes"),
        ({"send_timeout_seconds": 0.0}, "send_timeout_seconds"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        ApiSettings(**fields)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "localhost", "::1", "[::1]"])
def test_the_loopback_address_needs_no_key(host):
    assert ApiSettings(host=host).api_keys == {}


def test_keys_are_not_shown():
    assert "key-of-alice" not in repr(ApiSettings(api_keys=KEYS))
