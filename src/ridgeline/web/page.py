"""The page and its files: from memory, under a name that changes with their content."""

import hashlib
import html
import json
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import RedirectResponse, Response

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


@dataclass(frozen=True, slots=True)
class _Figures:
    """A page of figures: what it does not share with the others, see `figures.html`.

    Attributes:
        name: in the window's title.
        styles: beside those of the dashboard.
        instead: what says the same without JavaScript, as HTML.
    """

    name: str
    styles: tuple[str, ...]
    instead: str


_FIGURES = {
    "dashboard": _Figures("Dashboard", (), "/metrics and <code>ridgeline top</code> do not"),
    "explain": _Figures("Explain", ("explain",), "<code>ridgeline explain</code> does not"),
    "fleet": _Figures("Fleet", ("fleet",), "<code>ridgeline fleet status</code> does not"),
}


class Page:
    """Serves the chat at `/` and `/c/ID`, the pages of figures, and their files below `/assets/VERSION/`.

    Chromium and Safari offer to install it by its manifest alone: it needs no service worker.

    Args:
        title: what the site is called.
        front_door: whether it has a fleet to show, at `/fleet`; the dashboard, of which a server without
            an engine has none, then leads there.
    """

    def __init__(self, title: str, front_door: bool = False) -> None:
        files = {path: path.read_bytes() for path in sorted(_STATIC.rglob("*")) if path.suffix in _TYPES}
        self._assets = {path.relative_to(_STATIC).as_posix(): data for path, data in files.items()}
        digest = hashlib.sha256()
        for name, data in self._assets.items():
            digest.update(f"{name}\0{len(data)}\0".encode() + data)
        # All files share one folder name, so modules that import each other by relative paths
        # are always of one version, and browsers may keep them for ever.
        self.version = digest.hexdigest()[:16]
        self._html = self._filled("index.html", html.escape(title))
        self._figures = {name: self._figures_page(name, html.escape(title)) for name in _FIGURES}
        self._manifest = self._filled("manifest.webmanifest", json.dumps(title)[1:-1])
        self.router = APIRouter()
        self.router.add_api_route("/", self.index, methods=["GET", "HEAD"])
        self.router.add_api_route("/c/{conversation_id}", self.index, methods=["GET", "HEAD"])
        dashboard = self.to_fleet if front_door else self.dashboard
        self.router.add_api_route("/dashboard", dashboard, methods=["GET", "HEAD"])
        if front_door:
            self.router.add_api_route("/fleet", self.fleet, methods=["GET", "HEAD"])
        self.router.add_api_route("/explain", self.explain, methods=["GET", "HEAD"])
        self.router.add_api_route("/manifest.webmanifest", self.manifest, methods=["GET", "HEAD"])
        self.router.add_api_route("/assets/{version}/{name:path}", self.asset, methods=["GET", "HEAD"])

    async def index(self) -> Response:
        """The page, the same for every address in it."""
        return Response(self._html, media_type="text/html", headers=_SAFE_PAGE)

    async def dashboard(self) -> Response:
        """How the server is doing; what it shows comes from `/dashboard/live`, which asks for a key."""
        return Response(self._figures["dashboard"], media_type="text/html", headers=_SAFE_PAGE)

    async def explain(self) -> Response:
        """What became of a request; the timeline that it shows comes from the API, which asks for a key."""
        return Response(self._figures["explain"], media_type="text/html", headers=_SAFE_PAGE)

    async def fleet(self) -> Response:
        """How the fleet is doing, from `/fleet/status`, which asks for the fleet's token."""
        return Response(self._figures["fleet"], media_type="text/html", headers=_SAFE_PAGE)

    async def to_fleet(self) -> Response:
        """The dashboard of a front door is its fleet."""
        return RedirectResponse("/fleet", status_code=307, headers=_SAFE | {"cache-control": "no-cache"})

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

    def _figures_page(self, name: str, title: str) -> str:
        page = _FIGURES[name]
        links = [
            f'  <link rel="stylesheet" href="{{{{assets}}}}/css/{style}.css">\n' for style in page.styles
        ]
        text = (_STATIC / "figures.html").read_text(encoding="utf-8")
        text = text.replace("{{name}}", page.name).replace("{{folder}}", name)
        text = text.replace("{{instead}}", page.instead).replace("  {{styles}}\n", "".join(links))
        return self._with_assets(text, title)

    def _filled(self, name: str, title: str) -> str:
        return self._with_assets((_STATIC / name).read_text(encoding="utf-8"), title)

    def _with_assets(self, template: str, title: str) -> str:
        return template.replace("{{assets}}", f"/assets/{self.version}").replace("{{title}}", title)
