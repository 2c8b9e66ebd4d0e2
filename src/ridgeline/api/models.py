"""`/v1/models`: what is served."""

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ridgeline.protocol import Backend, ModelInfo, Refusal

router = APIRouter(prefix="/v1/models")


@router.get("")
async def list_models(request: Request) -> Response:
    """Every served model under its own name."""
    backend: Backend = request.app.state.backend
    data = [_describe(info) for info in backend.models()]
    return _json({"object": "list", "data": data})


@router.get("/{name:path}")
async def one_model(request: Request, name: str) -> Response:
    """One model, by name or alias."""
    return _json(_describe(find_model(request.app.state.backend, name)))


def find_model(backend: Backend, name: str) -> ModelInfo:
    """The served model that goes by `name`.

    Raises:
        Refusal: `model_not_found`, with the names there are.
    """
    served = backend.models()
    for info in served:
        if name == info.name or name in info.aliases:
            return info
    names = ", ".join(alias for info in served for alias in (info.name, *info.aliases)) or "none"
    raise Refusal(
        "model_not_found", f"There is no model {name[:100]!r} here; served are: {names}.", param="model"
    )


def _describe(info: ModelInfo) -> dict[str, object]:
    return {
        "id": info.name,
        "object": "model",
        "created": info.created,
        "owned_by": "ridgeline",
        "max_model_len": info.max_context_tokens,
        "aliases": list(info.aliases),
        "parameters": info.parameters,
    }


def _json(body: object) -> Response:
    return Response(orjson.dumps(body), media_type="application/json")
