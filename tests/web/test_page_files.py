"""What is served as the page: from here alone, unchanged libraries, strict headers."""

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from served import Server

from ridgeline.web import vendor
from ridgeline.web.page import Page

STATIC = Path(vendor.__file__).with_name("static")
OURS = [
    path
    for path in STATIC.rglob("*")
    if path.is_file() and vendor.FOLDER not in path.parents and path.suffix != ".png"
]
SCRIPTS = {name: f"{name}/app.js" for name in ("dashboard", "explain", "fleet")} | {"index": "app.js"}
FILES = json.loads(vendor.MANIFEST.read_text())["modules"]
MODULES = [name for name in FILES if name.endswith(".js")]
IMPORTS = re.compile(r"""(?:\bfrom|(?:^|[;\n])\s*import|\bimport\s*\()\s*["']([\w@./-]+)["']""")
# Names of XML namespaces look like addresses, but nobody ever asks for them.
NAMESPACES = re.compile(r"http://www\.w3\.org/(1999/xhtml|2000/svg|1998/Math/MathML)")


def without_comments(source: str) -> str:
    source = re.sub(r"/\*.*?\*/", "", source, flags=re.S)
    return re.sub(r"^\s*//.*$", "", source, flags=re.M)


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_our_files_name_no_other_host(path: Path) -> None:
    assert not re.search(
        r"(?:https?:)?//[a-z0-9-]+\.[a-z]", NAMESPACES.sub("", without_comments(path.read_text()))
    )


@pytest.mark.parametrize("name", MODULES)
def test_libraries_load_nothing_from_other_hosts(name: str) -> None:
    source = without_comments((vendor.FOLDER / name).read_text())
    assert set(IMPORTS.findall(source)) <= {f"./{other}" for other in MODULES}
    # A method `fetch` of a parser is another thing than the one of the window.
    assert not re.search(r"(?<![\w$.])fetch\s*\((?!\)\s*\{)|\b(?:window|self|globalThis)\.fetch\b", source)
    assert not re.search(
        r"\b(XMLHttpRequest|importScripts|WebSocket|EventSource|sendBeacon|eval)\s*\(", source
    )
    # The rest are words in error messages.
    assert set(re.findall(r"https?://[\w.-]+", NAMESPACES.sub("", source))) <= {
        "https://github.com",
        "http://",
    }


def test_stylesheets_of_libraries_ask_for_what_is_here_alone() -> None:
    for path in vendor.FOLDER.rglob("*.css"):
        source = path.read_text()
        asked = re.findall(r"url\(([^)]*)\)", source)
        assert asked and all((path.parent / name).is_file() for name in asked), path.name
        assert "@import" not in source


@pytest.mark.parametrize("name", FILES)
def test_libraries_are_those_of_the_manifest(name: str) -> None:
    entry = FILES[name]
    assert vendor.sha256((vendor.FOLDER / name).read_bytes()) == entry["sha256"]
    assert entry["package"] == vendor.SOURCES[name].package
    licence = (vendor.FOLDER / entry["licence_file"]).read_text()
    assert entry["licence"].split("-")[0] in ("MIT", "Apache", "BSD") and "opyright" in licence


def test_nothing_is_vendored_that_the_manifest_does_not_name() -> None:
    licences = {entry["licence_file"] for entry in FILES.values()}
    assert {
        path.relative_to(vendor.FOLDER).as_posix() for path in vendor.FOLDER.rglob("*") if path.is_file()
    } == {"manifest.json", *vendor.SOURCES, *licences}
    assert FILES.keys() == vendor.SOURCES.keys()


def test_a_library_for_browsers_imports_its_neighbours() -> None:
    source = b'import{a}from"preact";import"preact/hooks";export*from\'@preact/signals-core\';\n'
    source += b"//# sourceMappingURL=x.map"
    assert vendor.browser_module(source) == (
        b'import{a}from"./preact.js";import"./hooks.js";export*from"./signals-core.js";\n'
    )


def test_a_stylesheet_asks_for_fonts_in_one_format() -> None:
    source = b'src:url(a.woff2) format("woff2"),url(a.woff) format("woff"),url(a.ttf) format("truetype")}'
    assert vendor.stylesheet(source) == b'src:url(a.woff2) format("woff2")}'


def html_of(name: str) -> str:
    page = Page("Title", front_door=True)
    return page._html if name == "index" else page._figures[name]


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_page_has_no_inline_script_or_style(name: str) -> None:
    page = html_of(name)
    assert "{{" not in page
    assert re.findall(r"<script[^>]*>(.*?)</script>", page, flags=re.S) == ["", ""]
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", page)


def test_every_module_of_ours_is_reachable() -> None:
    for name, script in SCRIPTS.items():
        found = re.findall(r'<script[^>]* src="/assets/\w+/([\w./-]+)"', html_of(name))
        assert found == ["loading.js", script]
    seen: set[Path] = set()
    todo = [STATIC / name for name in ("loading.js", *SCRIPTS.values())]
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            imported = re.findall(r"(?:from|import) '(\.{1,2}/[\w/.-]+)'", path.read_text())
            todo += [(path.parent / name).resolve() for name in imported]
    assert {path for path in OURS if path.suffix == ".js"} == {
        path for path in seen if vendor.FOLDER not in path.parents
    }


def test_headers_and_caching(server: Server) -> None:
    linked: list[str] = []
    with httpx.Client(base_url=server.url) as client:
        for path in ("/dashboard", "/explain", "/", "/c/0123456789abcdef"):
            page = client.get(path)
            assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
            policy = dict(
                part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";")
            )
            assert policy["default-src"] == policy["connect-src"] == policy["form-action"] == "'self'"
            assert policy["base-uri"] == policy["frame-ancestors"] == policy["object-src"] == "'none'"
            assert policy["img-src"] == "'self' data:"
            assert "unsafe" not in page.headers["content-security-policy"]
            assert page.headers["x-content-type-options"] == "nosniff"
            assert page.headers["referrer-policy"] == "no-referrer"
            assert page.headers["cache-control"] == "no-cache"
            linked += re.findall(r'(?:href|src)="(/assets/[^"]+)"', page.text)
        assert len(set(linked)) > 8
        for path in set(linked):
            asset = client.get(path)
            assert asset.status_code == 200, path
            assert "immutable" in asset.headers["cache-control"]
            assert asset.headers["x-content-type-options"] == "nosniff"
        version = linked[0].split("/")[2]
        for path in (
            "/assets/0000000000000000/app.js",
            f"/assets/{version}/index.html",
            f"/assets/{version}/../app.py",
            f"/assets/{version}/%2e%2e/app.py",
            f"/assets/{version}/vendor/manifest.json",
        ):
            assert client.get(path).status_code == 404, path


def test_only_a_front_door_has_a_page_of_its_fleet(
    server: Server, make_server: Callable[..., Server]
) -> None:
    door = make_server(front_door=True)
    with httpx.Client() as client:
        assert client.get(f"{server.url}/fleet").status_code == 404
        assert "/dashboard/app.js" in client.get(f"{server.url}/dashboard").text
        page = client.get(f"{door.url}/fleet")
        assert "/fleet/app.js" in page.text and "unsafe" not in page.headers["content-security-policy"]
        moved = client.get(f"{door.url}/dashboard")
        assert (moved.status_code, moved.headers["location"]) == (307, "/fleet")
        assert moved.headers["cache-control"] == "no-cache"


def test_the_title_is_text() -> None:
    assert "&lt;b&gt;&quot;x&quot;" in Page('<b>"x"')._html
    assert "<b>" not in Page("<b>")._html


def test_the_version_follows_the_content() -> None:
    assert Page("a").version == Page("b").version
    assert re.fullmatch(r"[0-9a-f]{16}", Page("a").version)


def test_the_page_can_be_installed(make_server: Callable[..., Server]) -> None:
    server = make_server(api_keys={"ann": "key"})  # the manifest is asked for before any key is typed
    with httpx.Client(base_url=server.url) as client:
        address = re.search(r'<link rel="manifest" href="([^"]+)"', client.get("/").text)
        assert address is not None
        answer = client.get(address[1])
        assert answer.headers["content-type"].startswith("application/manifest+json")
        assert answer.headers["cache-control"] == "no-cache"
        manifest = answer.json()
        assert manifest["name"] == "Ridgeline" and manifest["display"] == "standalone"
        assert manifest["start_url"] == manifest["scope"] == manifest["id"] == "/"
        kinds = set()
        for icon in manifest["icons"]:
            image = client.get(icon["src"])
            assert image.status_code == 200 and image.headers["content-type"] == icon["type"]
            if icon["type"] == "image/png":
                width, height = struct.unpack(">II", image.content[16:24])
                assert icon["sizes"] == f"{width}x{height}"
                kinds.add((width, icon.get("purpose", "any")))
        assert kinds == {(192, "any"), (512, "any"), (192, "maskable"), (512, "maskable")}


def test_the_manifest_takes_any_title() -> None:
    manifest = json.loads(Page('A "quoted" \\ title')._manifest)
    assert manifest["name"] == manifest["short_name"] == 'A "quoted" \\ title'
