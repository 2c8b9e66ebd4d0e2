"""Reading the JSON files that come with models."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ridgeline.models.errors import ModelError


def read_json(path: Path) -> Mapping[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelError: when the file is missing, unreadable or holds something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON ({error}); fetch the model again.") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} does not hold a JSON object; fetch the model again.")
    return values
