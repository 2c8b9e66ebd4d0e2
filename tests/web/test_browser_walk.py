"""The pictures of the guide can be taken, and show what they are to show."""

import re
from pathlib import Path

import pytest
import walk
from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "chat.md"


def test_the_walk(chromium: Browser, tmp_path: Path) -> None:
    walk.take(chromium, tmp_path)
    taken = sorted(path.name for path in tmp_path.iterdir())
    assert taken == sorted(path.name for path in walk.FOLDER.iterdir())
    assert taken == re.findall(r"\(\.\./images/walk/([^)]+)\)", GUIDE.read_text(encoding="utf-8"))
