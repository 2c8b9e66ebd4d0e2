"""The page of the API names everything there is."""

import re
from pathlib import Path

from starlette.routing import Route

from ridgeline.api.schemas_chat import ChatRequest
from ridgeline.api.schemas_completions import CompletionRequest
from ridgeline.api.unsupported import CHAT, COMPLETIONS
from ridgeline.protocol.errors import STATUS_OF_CODE

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()


def test_the_page_names_every_parameter_and_code():
    named = set(re.findall(r"`([a-z_]+)`", PAGE))
    known = {*ChatRequest.model_fields, *CompletionRequest.model_fields, *CHAT, *COMPLETIONS, *STATUS_OF_CODE}
    assert known - named == set()


def test_the_page_names_every_path(app):
    listed = set(re.findall(r"`(?:GET|POST) (/[^`{]*)", PAGE))
    plain = {route.path for route in app.routes if type(route) is Route}
    assert {path.partition("{")[0] for path in (*app.openapi()["paths"], *plain)} == listed
