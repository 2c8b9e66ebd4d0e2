"""The order of the rooms, the purity of those without I/O, and the map that names them all."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "ridgeline"

# Highest first: a room imports only from itself and from rooms further down.
ROOMS = (
    "cli", "web", "api", "simulate", "fleet", "train", "bench", "engine", "store", "admission",
    "kvcache", "models", "kernels", "text", "telemetry", "roofline", "protocol",
)  # fmt: skip

PURE = ("protocol", "roofline", "kvcache", "admission", "engine/core", "fleet/core")
PURE_WITHOUT = ("torch", "asyncio", "aiohttp", "fastapi", "pydantic", "sqlalchemy")

# These run on a bare GPU machine: torch may be there, the server's libraries are not.
BARE = ("engine", "kvcache", "models", "kernels", "text", "roofline", "telemetry", "admission", "protocol")
BARE_WITHOUT = ("fastapi", "starlette", "uvicorn", "pydantic", "sqlalchemy")


def modules_of(room: str) -> list[str]:
    """Every module below a room, as importable names."""
    files = sorted((PACKAGE / room).rglob("*.py"))
    return [
        ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for file in files
        if "migrations" not in file.parts
    ]


def packages() -> list[str]:
    """Every package and module file, relative to the source root, for the map."""
    return [str(path.parent.relative_to(PACKAGE)) for path in sorted(PACKAGE.rglob("__init__.py"))]


def imports_of(file: Path) -> list[tuple[str, int]]:
    """Rooms that a file imports from, with the line; also imports inside functions."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        rooms = [name.split(".")[1] for name in names if name.startswith("ridgeline.")]
        found += [(room, node.lineno) for room in rooms if room != "__version__"]
    return found


def test_every_room_has_its_place() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms <= set(ROOMS), f"without a place in the order: {rooms - set(ROOMS)}"
    assert {"cli", "api", "engine", "protocol"} <= rooms


def test_rooms_import_only_downwards() -> None:
    wrong = []
    for room in ROOMS:
        for file in sorted((PACKAGE / room).rglob("*.py")):
            wrong += [
                f"{file.relative_to(ROOT)}:{line}: {room} imports {other}"
                for other, line in imports_of(file)
                if ROOMS.index(other) < ROOMS.index(room)
            ]
    assert not wrong, "\n".join(wrong)


def test_the_import_finder_sees_imports_inside_functions(tmp_path: Path) -> None:
    file = tmp_path / "sample.py"
    file.write_text("def f():\n    from ridgeline.api.app import create_app\n    import ridgeline.web.app\n")
    assert imports_of(file) == [("api", 2), ("web", 3)]


def loaded_by(modules: list[str], suspects: tuple[str, ...]) -> list[str]:
    """Which of the suspects a fresh interpreter has after importing the modules."""
    code = f"import sys\nfor name in {modules!r}: __import__(name)\n"
    code += f"print(*[name for name in {suspects!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("room", PURE)
def test_pure_rooms_do_without_io_and_torch(room: str) -> None:
    modules = modules_of(room)
    assert modules
    assert loaded_by(modules, PURE_WITHOUT) == []


def test_engine_runs_without_the_servers_libraries() -> None:
    modules = [name for room in BARE for name in modules_of(room)]
    assert "ridgeline.engine.core.plan" in modules
    assert loaded_by(modules, BARE_WITHOUT) == []


def test_the_command_line_starts_without_heavy_libraries() -> None:
    assert (
        loaded_by(["ridgeline.cli.main"], ("torch", "numpy", "fastapi", "pydantic", "rich", "aiohttp")) == []
    )


def test_a_fresh_interpreter_that_imports_asyncio_is_caught() -> None:
    assert loaded_by(["asyncio", "json"], ("asyncio", "torch")) == ["asyncio"]


@pytest.mark.parametrize("package", packages())
def test_the_map_names_every_package_in_a_sentence(package: str) -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    name = f"`{package}/`" if package != "." else "`src/ridgeline/`"
    lines = [line for line in text.splitlines() if name in line]
    assert any(len(line.replace(name, "").split()) >= 5 for line in lines), f"{name} has no sentence"


def test_init_files_say_what_the_room_is_for() -> None:
    for file in sorted(PACKAGE.rglob("__init__.py")):
        assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))), f"{file} has no docstring"
