"""What a replica tells its front doors of its cache: of their own requests, and to holders of a key."""

import pytest

from fakes import FakeBackend
from ridgeline.api.settings import ApiSettings
from ridgeline.protocol.cached import CacheReport

PATH = "/v1/fleet/cache"


class Telling(FakeBackend):
    """Tells what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str, str, int]] = []

    def cache_report(self, model: str, tenant: str, epoch: str, number: int) -> CacheReport:
        self.asked.append((model, tenant, epoch, number))
        return CacheReport("e1", 7, False, (b"\x01\xff",), (b"\x02",))


@pytest.fixture
def fake() -> FakeBackend:
    return Telling()


@pytest.fixture
def settings() -> ApiSettings:
    return ApiSettings(api_keys={"alice": "key-of-alice", "fleet": "the-token"})


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_it_is_told_to_holders_of_a_key_and_of_their_own_requests_alone(http, fake) -> None:
    assert (await http.get(PATH, params={"model": "fake-model"})).status_code == 401
    assert fake.asked == []
    for key in ("key-of-alice", "the-token"):
        response = await http.get(PATH, params={"model": "fake-model", "since": "e1:5"}, headers=bearer(key))
        assert response.status_code == 200 and response.headers["cache-control"] == "no-store"
    assert response.json() == {
        "epoch": "e1",
        "next": 7,
        "whole": False,
        "cached": ["01ff"],
        "evicted": ["02"],
    }
    assert fake.asked == [("fake-model", "alice", "e1", 5), ("fake-model", "fleet", "e1", 5)]


async def test_without_a_number_all_is_asked_for(http, fake) -> None:
    assert (await http.get(PATH, params={"model": "fake-model"}, headers=bearer("the-token"))).is_success
    assert fake.asked == [("fake-model", "fleet", "", 0)]


@pytest.mark.parametrize("since", ["e1", "e1:", "e1:x", "e1:-1", "e1:²", "e1:" + "9" * 30])
async def test_a_number_that_is_none_is_refused(http, fake, since) -> None:
    response = await http.get(
        PATH, params={"model": "fake-model", "since": since}, headers=bearer("the-token")
    )
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")
    assert fake.asked == []


async def test_a_model_that_is_not_there_is_told(http) -> None:
    response = await http.get(PATH, params={"model": "other"}, headers=bearer("the-token"))
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
