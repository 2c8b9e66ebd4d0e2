"""All of the official client's tests once more, on the real engine and model."""

from api.test_openai_client import *  # noqa: F403
