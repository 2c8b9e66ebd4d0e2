"""Renews the libraries of the page: `python -m ridgeline.web.vendor [NAME=VERSION ...]`.

Takes each package from npm by `npm pack`, checks nothing but what npm checks, and writes those of
its files that the page uses, its licence, and their lines in `static/vendor/manifest.json`. Without
arguments the versions of the manifest are fetched again; `NAME=latest` moves one forward.
"""

import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).with_name("static") / "vendor"
MANIFEST = FOLDER / "manifest.json"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a file stands in its package, and which of its licences is chosen."""

    package: str
    path: str
    licence: str


# One file per language, so that a page loads those that its answers are written in.
LANGUAGES = (
    *("bash", "c", "clojure", "cmake", "cpp", "csharp", "css", "dart", "diff", "dockerfile", "elixir"),
    *("erlang", "fortran", "fsharp", "go", "gradle", "graphql", "groovy", "haskell", "http", "ini"),
    *("java", "javascript", "json", "julia", "kotlin", "latex", "less", "lisp", "lua", "makefile"),
    *("markdown", "matlab", "nginx", "nix", "objectivec", "ocaml", "perl", "php", "powershell"),
    *("protobuf", "python", "r", "ruby", "rust", "scala", "scheme", "scss", "shell", "sql", "swift"),
    *("typescript", "vbnet", "verilog", "vhdl", "vim", "wasm", "x86asm", "xml", "yaml"),
)
FONTS = (
    *("AMS-Regular", "Caligraphic-Bold", "Caligraphic-Regular", "Fraktur-Bold", "Fraktur-Regular"),
    *("Main-Bold", "Main-BoldItalic", "Main-Italic", "Main-Regular", "Math-BoldItalic", "Math-Italic"),
    *("SansSerif-Bold", "SansSerif-Italic", "SansSerif-Regular", "Script-Regular", "Size1-Regular"),
    *("Size2-Regular", "Size3-Regular", "Size4-Regular", "Typewriter-Regular"),
)
_HIGHLIGHT = "@highlightjs/cdn-assets"
SOURCES = {
    "preact.js": Source("preact", "dist/preact.mjs", "MIT"),
    "hooks.js": Source("preact", "hooks/dist/hooks.mjs", "MIT"),
    "htm.js": Source("htm", "dist/htm.mjs", "Apache-2.0"),
    "signals-core.js": Source("@preact/signals-core", "dist/signals-core.mjs", "MIT"),
    "signals.js": Source("@preact/signals", "dist/signals.mjs", "MIT"),
    "marked.js": Source("marked", "lib/marked.esm.js", "MIT"),
    "purify.js": Source("dompurify", "dist/purify.es.mjs", "Apache-2.0"),
    "highlight/core.js": Source(_HIGHLIGHT, "es/core.min.js", "BSD-3-Clause"),
    **{
        f"highlight/{name}.js": Source(_HIGHLIGHT, f"es/languages/{name}.min.js", "BSD-3-Clause")
        for name in LANGUAGES
    },
    "katex/katex.js": Source("katex", "dist/katex.min.js", "MIT"),
    "katex/katex.css": Source("katex", "dist/katex.min.css", "MIT"),
    **{
        f"katex/fonts/KaTeX_{name}.woff2": Source("katex", f"dist/fonts/KaTeX_{name}.woff2", "MIT")
        for name in FONTS
    },
}
# Browsers resolve no bare module names without an import map, which would be an inline script.
_IMPORTS = {
    "preact/hooks": "./hooks.js",
    "preact": "./preact.js",
    "@preact/signals-core": "./signals-core.js",
}


def sha256(data: bytes) -> str:
    """Hexadecimal digest."""
    return hashlib.sha256(data).hexdigest()


def stylesheet(source: bytes) -> bytes:
    """A stylesheet that asks for fonts in the one format that every browser of today reads."""
    return re.sub(rb',url\([^)]*\) format\("(?:woff|truetype)"\)', b"", source)


def as_served(name: str, source: bytes) -> bytes:
    """A file as it stands in the folder, from how it stands in its package."""
    if name.endswith(".js"):
        return browser_module(source)
    return stylesheet(source) if name.endswith(".css") else source


def browser_module(source: bytes) -> bytes:
    """A module as browsers take it: relative imports, no pointer to a source map."""
    text = source.decode("utf-8")
    for name, path in _IMPORTS.items():
        text = re.sub(rf"""(from\s*|import\s*)(["']){re.escape(name)}\2""", rf'\1"{path}"', text)
    return re.sub(r"\n?//# sourceMappingURL=\S*\s*$", "\n", text).encode("utf-8")


def fetch(package: str, version: str, folder: Path) -> tuple[str, dict[str, bytes]]:
    """The files of a package, by `npm pack`, and its exact version."""
    done = subprocess.run(
        ["npm", "pack", "--json", f"{package}@{version}"],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    listed = json.loads(done.stdout)
    # npm 12 answers with an object by name where earlier ones answer with a list.
    packed = next(iter(listed.values())) if isinstance(listed, dict) else listed[0]
    with tarfile.open(folder / packed["filename"]) as archive:
        files = {
            member.name.partition("/")[2]: data.read()
            for member in archive
            if member.isfile() and (data := archive.extractfile(member)) is not None
        }
    return packed["version"], files


def renew(versions: dict[str, str]) -> dict[str, object]:
    """Write all files and licences; the manifest as it then is."""
    modules: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for package in sorted({source.package for source in SOURCES.values()}):
            version, files = fetch(package, versions.get(package, "latest"), Path(scratch))
            licence_name = f"LICENSE-{package.removeprefix('@').replace('/', '-')}.txt"
            (FOLDER / licence_name).write_bytes(files["LICENSE"])
            for name, source in SOURCES.items():
                if source.package != package:
                    continue
                module = as_served(name, files[source.path])
                (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
                (FOLDER / name).write_bytes(module)
                modules[name] = {
                    "package": package,
                    "version": version,
                    "path": source.path,
                    "licence": source.licence,
                    "licence_file": licence_name,
                    "sha256": sha256(module),
                    "sha256_in_package": sha256(files[source.path]),
                }
    return {"modules": dict(sorted(modules.items()))}


def main(arguments: list[str]) -> None:
    """Renew the folder; arguments are `NAME=VERSION`."""
    FOLDER.mkdir(exist_ok=True)
    known = json.loads(MANIFEST.read_text())["modules"] if MANIFEST.exists() else {}
    versions = {entry["package"]: entry["version"] for entry in known.values()}
    for argument in arguments:
        package, _, version = argument.partition("=")
        versions[package] = version
    MANIFEST.write_text(json.dumps(renew(versions), indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
