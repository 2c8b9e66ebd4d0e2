"""The page and its files: from memory, under a name that changes with their content."""

import hashlib
import html
import json
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

from ridgeline.api.errors import error_response
from ridgeline.protocol import Refusal

_STATIC = Path(__file__).with_name("static")
_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".woff2": "font/woff2",
}
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "form-action 'self'",
        "object-src 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types dompurify",
    )
)
_SAFE = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
_SAFE_PAGE = _SAFE | {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}
_SAFE_ASSET = _SAFE | {
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "public, max-age=31536000, immutable",
}


class Page:
    """Serves the chat at `/` and `/c/ID`, `/dashboard`, `/explain`, and their files below `/assets/VERSION/`.

    Chromium and Safari offer to install it by its manifest alone: it needs no service worker.
    """

    def __init__(self, title: str) -> None:
        files = {path: path.read_bytes() for path in sorted(_STATIC.rglob("*")) if path.suffix in _TYPES}
        self._assets = {path.relative_to(_STATIC).as_posix(): data for path, data in files.items()}
        digest = hashlib.sha256()
        for name, data in self._assets.items():
            digest.update(f"{name}\0{len(data)}\0".encode() + data)
        # All files share one folder name, so modules that import each other by relative paths
        # are always of one version, and browsers may keep them for ever.
        self.version = digest.hexdigest()[:16]
        self._html = self._filled("index.html", html.escape(title))
        self._dashboard = self._filled("dashboard.html", html.escape(title))
        self._explain = self._filled("explain.html", html.escape(title))
        self._manifest = self._filled("manifest.webmanifest", json.dumps(title)[1:-1])
        self.router = APIRouter()
        self.router.add_api_route("/", self.index, methods=["GET", "HEAD"])
        self.router.add_api_route("/c/{conversation_id}", self.index, methods=["GET", "HEAD"])
        self.router.add_api_route("/dashboard", self.dashboard, methods=["GET", "HEAD"])
        self.router.add_api_route("/explain", self.explain, methods=["GET", "HEAD"])
        self.router.add_api_route("/manifest.webmanifest", self.manifest, methods=["GET", "HEAD"])
        self.router.add_api_route("/assets/{version}/{name:path}", self.asset, methods=["GET", "HEAD"])

    async def index(self) -> Response:
        """The page, the same for every address in it."""
        return Response(self._html, media_type="text/html", headers=_SAFE_PAGE)

    async def dashboard(self) -> Response:
        """How the server is doing; what it shows comes from `/dashboard/live`, which asks for a key."""
        return Response(self._dashboard, media_type="text/html", headers=_SAFE_PAGE)

    async def explain(self) -> Response:
        """What became of a request; the timeline that it shows comes from the API, which asks for a key."""
        return Response(self._explain, media_type="text/html", headers=_SAFE_PAGE)

    async def manifest(self) -> Response:
        """What the page is called and looks like as an installed app."""
        return Response(
            self._manifest,
            media_type="application/manifest+json",
            headers=_SAFE | {"cache-control": "no-cache"},
        )

    async def asset(self, version: str, name: str) -> Response:
        """One file of the page."""
        data = self._assets.get(name)
        if data is None or version != self.version:
            return error_response(
                Refusal("invalid_request", "The page has changed: load it again."), status=404
            )
        return Response(data, media_type=_TYPES[Path(name).suffix], headers=_SAFE_ASSET)

    def _filled(self, name: str, title: str) -> str:
        template = (_STATIC / name).read_text(encoding="utf-8")
        return template.replace("{{assets}}", f"/assets/{self.version}").replace("{{title}}", title)
