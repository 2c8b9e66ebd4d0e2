"""The one way to say no: a refusal with a code that never changes its meaning."""

from typing import Literal

Code = Literal[
    "invalid_request",
    "context_length_exceeded",
    "invalid_api_key",
    "forbidden",
    "model_not_found",
    "request_too_large",
    "limit_reached",
    "rate_limited",
    "at_capacity",
    "no_replica",
    "shutting_down",
    "internal_error",
]

STATUS_OF_CODE: dict[Code, int] = {
    "invalid_request": 400,
    "context_length_exceeded": 400,
    "invalid_api_key": 401,
    "forbidden": 403,
    "model_not_found": 404,
    "request_too_large": 413,
    "limit_reached": 409,
    "rate_limited": 429,
    "at_capacity": 503,
    "no_replica": 503,
    "shutting_down": 503,
    "internal_error": 500,
}


class Refusal(Exception):
    """A request that is not served, with the reason in one sentence.

    Attributes:
        code: one of `Code`; decides the HTTP status.
        message: names the field, the limit and the value where there are any.
        param: the request's field at fault, if one is.
        retry_after_seconds: when trying again makes sense; computed, never a constant.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        param: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code: Code = code
        self.message = message
        self.param = param
        self.retry_after_seconds = retry_after_seconds

    def __reduce__(self) -> tuple[object, ...]:
        """Refusals cross process borders, and an exception's own way forgets keywords."""
        return _refusal, (self.code, self.message, self.param, self.retry_after_seconds)

    @property
    def status(self) -> int:
        """The HTTP status that belongs to the code."""
        return STATUS_OF_CODE[self.code]


def _refusal(code: Code, message: str, param: str | None, retry_after_seconds: float | None) -> Refusal:
    return Refusal(code, message, param=param, retry_after_seconds=retry_after_seconds)
