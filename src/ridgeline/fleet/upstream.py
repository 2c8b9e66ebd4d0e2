"""A replica behind its HTTP address: any server that speaks OpenAI's API."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import aiohttp
import orjson

from ridgeline.fleet.core.replica import Load
from ridgeline.protocol import Delta, FinishReason, Refusal, Request, Usage
from ridgeline.protocol.errors import Code

CONNECT_SECONDS = 2.0
SILENCE_SECONDS = 120.0
"""A stream that says nothing for so long is broken."""

MAX_LINE_BYTES = 4 << 20

_FINISHES: dict[str, FinishReason] = {"stop": "stop", "length": "length", "tool_calls": "stop"}


class Full(Exception):
    """The replica has no place now. It is not broken."""


class Fault(Exception):
    """The replica, or the way to it, is broken."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """An address, and how to talk to what is there.

    Attributes:
        url: without `/v1`.
        model: as it is called there.
        key: to show; None for none.
        speaks_ridgeline: it is one of ours.
        takes_salt: it knows `cache_salt`, as ours and vLLM do.
    """

    url: str
    model: str
    key: str | None = None
    speaks_ridgeline: bool = True
    takes_salt: bool = True

    @property
    def headers(self) -> dict[str, str]:
        """Of every request."""
        return {} if self.key is None else {"Authorization": f"Bearer {self.key}"}

    async def stream(
        self, session: aiohttp.ClientSession, path: str, body: Mapping[str, Any]
    ) -> AsyncGenerator[Delta, None]:
        """Ask, and yield the answer's deltas; the last of each answer has its finish.

        Raises:
            Full: try another.
            Fault: the connection or the stream broke, or the server failed.
            Refusal: the request is at fault; no other replica would say otherwise.
        """
        try:
            async with session.post(
                f"{self.url}{path}", data=orjson.dumps(body), headers=self.headers | _JSON
            ) as response:
                if response.status != 200:
                    raise _refused(response.status, await response.read())
                async for line in response.content:
                    if not line.startswith(b"data:"):
                        continue
                    text = line[5:].strip()
                    if text == b"[DONE]":
                        return
                    for delta in _deltas(orjson.loads(text)):
                        yield delta
            raise Fault("the stream ended before its end mark")
        except TimeoutError as error:
            raise Fault("no answer in time") from error
        except (aiohttp.ClientError, ConnectionError, ValueError) as error:
            raise Fault(str(error) or type(error).__name__) from error

    async def ask(self, session: aiohttp.ClientSession, path: str, body: Mapping[str, Any]) -> Any:
        """POST and read JSON; raises as `stream` does."""
        try:
            async with session.post(
                f"{self.url}{path}", data=orjson.dumps(body), headers=self.headers | _JSON
            ) as response:
                content = await response.read()
                if response.status != 200:
                    raise _refused(response.status, content)
                return orjson.loads(content)
        except TimeoutError as error:
            raise Fault("no answer in time") from error
        except (aiohttp.ClientError, ConnectionError, ValueError) as error:
            raise Fault(str(error) or type(error).__name__) from error

    async def look(self, session: aiohttp.ClientSession, now: float, slots: int) -> tuple[Load, int | None]:
        """Its load by its metrics, and the context of its model in tokens; raises Fault.

        A replica without the metrics is one whose load is not known, which `load` cannot say: its
        figures are then those of an idle one with `slots` places.
        """
        try:
            async with session.get(f"{self.url}/metrics", headers=self.headers) as response:
                text = await response.text() if response.status == 200 else ""
            async with session.get(f"{self.url}/v1/models", headers=self.headers) as response:
                if response.status != 200:
                    raise Fault(f"/v1/models answers with {response.status}")
                models = orjson.loads(await response.read())
        except TimeoutError as error:
            raise Fault("no answer in time") from error
        except (aiohttp.ClientError, ConnectionError, ValueError) as error:
            raise Fault(str(error) or type(error).__name__) from error
        values = _values(text)
        running = values.get("vllm:num_requests_running", 0.0)
        load = Load(
            now,
            int(running),
            int(values.get("ridgeline_batch_limit_sequences", slots)) or slots,
            int(values.get("vllm:num_requests_waiting", 0.0)),
            values.get("vllm:kv_cache_usage_perc", 0.0),
        )
        return load, _context(models, self.model)


_JSON = {"Content-Type": "application/json", "Accept": "text/event-stream"}


def body_of(request: Request, upstream: Upstream) -> tuple[str, dict[str, Any]]:
    """Path and body of a request as OpenAI's API takes it."""
    sampling, stopping = request.sampling, request.stopping
    body: dict[str, Any] = {
        "model": upstream.model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "n": request.n,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
    }
    optional = {
        "seed": sampling.seed,
        "max_tokens": stopping.max_tokens,
        "stop": list(stopping.stop) or None,
        "top_k": sampling.top_k or None,
        "min_p": sampling.min_p or None,
        "repetition_penalty": sampling.repetition_penalty if sampling.repetition_penalty != 1 else None,
        "logit_bias": {str(k): v for k, v in sampling.logit_bias.items()} or None,
        "min_tokens": stopping.min_tokens or None,
        "stop_token_ids": list(stopping.stop_token_ids) or None,
        "ignore_eos": stopping.ignore_eos or None,
        # Who asked is known here alone: replicas share nothing between two salts.
        "cache_salt": _salt(request.tenant) if upstream.takes_salt else None,
        "return_token_ids": upstream.speaks_ridgeline or None,
        "service_tier": "flex" if upstream.speaks_ridgeline and request.priority else None,
    }
    body |= {name: value for name, value in optional.items() if value is not None}
    if request.messages is None:
        prompt = request.prompt
        body |= {"prompt": list(prompt) if isinstance(prompt, tuple) else prompt, "echo": request.echo}
        return "/v1/completions", body
    body["messages"] = [{"role": each.role, "content": each.content} for each in request.messages]
    if request.continue_final_message:
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return "/v1/chat/completions", body


def _salt(tenant: str) -> str:
    return blake2b(tenant.encode(), digest_size=16).hexdigest()


def _deltas(event: Mapping[str, Any]) -> list[Delta]:
    """Of one event. Usage comes in an event of its own, after the finish: it has index 0 and no text."""
    if "error" in event:
        raise Fault(str(event["error"])[:300])
    deltas = []
    for choice in event.get("choices") or ():
        text = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
        finish = choice.get("finish_reason")
        ids = tuple(choice.get("token_ids") or ())
        if text or finish or ids:
            ended = _FINISHES.get(finish, "stop") if finish else None
            deltas.append(Delta(int(choice.get("index", 0)), text, ids, finish=ended))
    usage = event.get("usage")
    if usage:
        details = usage.get("prompt_tokens_details") or {}
        counted = Usage(
            int(usage.get("prompt_tokens") or 0),
            int(usage.get("completion_tokens") or 0),
            int(details.get("cached_tokens") or 0),
        )
        deltas.append(Delta(0, usage=counted))
    return deltas


def _refused(status: int, content: bytes) -> Exception:
    """What an answer other than 200 means."""
    try:
        error = orjson.loads(content)
    except orjson.JSONDecodeError:
        error = {}
    error = error.get("error", error) if isinstance(error, dict) else {}
    error = error if isinstance(error, dict) else {}
    code, message = error.get("code"), str(error.get("message") or f"HTTP {status}")[:1000]
    if status == 429 or (status == 503 and code not in ("no_replica", "shutting_down")):
        return Full(message)
    if status == 413:
        return Refusal("request_too_large", message)
    if status in (400, 404, 422):
        too_long = code == "context_length_exceeded"
        known: Code = "context_length_exceeded" if too_long else "invalid_request"
        param = error.get("param")
        return Refusal(known, message, param=param if isinstance(param, str) else None)
    return Fault(f"HTTP {status}: {message}")


def _values(text: str) -> dict[str, float]:
    """Samples of Prometheus' text by name, their labels left out; the first of each."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            try:
                found.setdefault(name.split("{")[0], float(value))
            except ValueError:
                continue
    return found


def _context(models: Any, name: str) -> int | None:
    for each in models.get("data") or ():
        told = each.get("max_model_len") or (each.get("meta") or {}).get("n_ctx_train")
        if each.get("id") == name and isinstance(told, int) and told > 0:
            return told
    return None
