"""`/tokenize` and `/detokenize`, in vLLM's shape."""

import orjson
from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from ridgeline.api.answers import nobody
from ridgeline.api.convert import check_token_ids, to_messages
from ridgeline.api.models import find_model
from ridgeline.api.schemas_tokens import DetokenizeRequest, TokenizeRequest
from ridgeline.api.unsupported import TOKENIZE
from ridgeline.api.validation import ClientGone, read_json
from ridgeline.protocol import Backend, Refusal

router = APIRouter()


@router.post("/tokenize")
async def tokenize(http: HttpRequest) -> Response:
    """Token ids of a text, or of a conversation with the model's template around it."""
    try:
        body = await read_json(http, TokenizeRequest, TOKENIZE)
    except ClientGone:
        return nobody()
    if (body.prompt is None) == (body.messages is None):
        raise Refusal(
            "invalid_request", "Exactly one of `prompt` and `messages` must be given.", param="prompt"
        )
    backend: Backend = http.app.state.backend
    info = find_model(backend, body.model)
    messages = None if body.messages is None else to_messages(body.messages)
    tokens = await backend.tokenize(info.name, body.prompt, messages)
    return _json({"count": len(tokens), "max_model_len": info.max_context_tokens, "tokens": tokens})


@router.post("/detokenize")
async def detokenize(http: HttpRequest) -> Response:
    """Text of token ids, special tokens shown unless they are to be left out."""
    try:
        body = await read_json(http, DetokenizeRequest)
    except ClientGone:
        return nobody()
    backend: Backend = http.app.state.backend
    info = find_model(backend, body.model)
    check_token_ids("tokens", body.tokens, info)
    skip = bool(body.skip_special_tokens)
    return _json({"prompt": await backend.detokenize(info.name, body.tokens, skip_special_tokens=skip)})


def _json(body: object) -> Response:
    return Response(orjson.dumps(body), media_type="application/json")
