"""What the tests of routes say to a served site."""

import json

import httpx


def events(response: httpx.Response) -> list[tuple[str, str, dict]]:
    """Id, kind and data of each server-sent event."""
    found = []
    for block in response.text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        if "data" in fields:
            found.append((fields["id"], fields["event"], json.loads(fields["data"])))
    return found


def ask(client: httpx.Client, content: str, conversation_id: str | None = None, **more: object) -> dict:
    """Send a message."""
    body = {"content": content, "conversation_id": conversation_id, **more}
    response = client.post("/web/messages", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def answer_of(client: httpx.Client, asked: dict) -> dict:
    """The answer at its end."""
    return events(client.get(f"/web/answers/{asked['answer']['id']}/events"))[-1][2]["message"]


def answered(client: httpx.Client, content: str, conversation_id: str | None = None, **more: object) -> dict:
    """Send a message and wait for its answer."""
    asked = ask(client, content, conversation_id, **more)
    answer_of(client, asked)
    return asked


def error_of(response: httpx.Response, status: int = 400) -> dict:
    """The error object of a refused request."""
    assert response.status_code == status, response.text
    return response.json()["error"]
