"""What an operator may set about the HTTP surface."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field


def is_loopback(host: str) -> bool:
    """Whether a bound host is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Limits, keys and allowed callers.

    Attributes:
        host: the address the server is bound to. Off the loopback address keys are required.
        api_keys: name of the owner -> key. The name is the request's tenant: only requests of one
            tenant share cached KV. Without keys everybody is the tenant `local`.
        allowed_hosts: names accepted in the Host header besides `localhost`, `127.0.0.1`, `[::1]`
            and `host`; `*.example.com` accepts every name below example.com. Bound off the
            loopback address, numeric addresses are accepted too: they cannot be rebound by DNS.
        allowed_origins: web pages (`https://chat.example.com`) that may call from a browser,
            besides those that this server serves itself.
        public_metrics: `/metrics` needs no key even where keys are set.
        max_body_bytes: longest request body; it is held in memory until parsed.
        max_header_bytes: longest sum of all header names and values.
        max_requests: requests in flight at once, streams included; beyond it `at_capacity`.
            Every one costs a socket and some 50 KB. `/health/*` is not counted.
        body_timeout_seconds: how long a client may take to send its body.
        send_timeout_seconds: how long a client may read nothing while its answer waits; then the
            answer is cancelled, for it holds KV blocks that others could use.
    """

    host: str = "127.0.0.1"
    api_keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    public_metrics: bool = False
    max_body_bytes: int = 8 * 1024 * 1024
    max_header_bytes: int = 32 * 1024
    max_requests: int = 1024
    body_timeout_seconds: float = 30.0
    send_timeout_seconds: float = 60.0

    def __post_init__(self) -> None:
        if not self.api_keys and not is_loopback(self.host):
            raise ValueError(
                f"An API key is required off the loopback address, but host is {self.host} and there is "
                "no key: set --api-key, or bind to 127.0.0.1."
            )
        for name, key in self.api_keys.items():
            if not name or not key:
                raise ValueError(
                    f"The API key named {name!r} must have a name and a value that are not empty."
                )
        if len(set(self.api_keys.values())) < len(self.api_keys):
            raise ValueError("Two API keys have the same value, so their tenants could not be told apart.")
        for host in self.allowed_hosts:
            if not re.fullmatch(r"(\*\.)?[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", host):
                raise ValueError(
                    f"An allowed host is a name without scheme or port, or *.name, but one is {host!r}."
                )
        for origin in self.allowed_origins:
            if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/*\s]+", origin):
                raise ValueError(
                    f"An allowed origin is written like https://chat.example.com, but one is {origin!r}."
                )
        for limit in ("max_body_bytes", "max_header_bytes", "max_requests"):
            if getattr(self, limit) < 1:
                raise ValueError(f"{limit} must be at least 1, but is {getattr(self, limit)}.")
        for limit in ("body_timeout_seconds", "send_timeout_seconds"):
            if not getattr(self, limit) > 0:
                raise ValueError(f"{limit} must be more than 0, but is {getattr(self, limit)}.")
