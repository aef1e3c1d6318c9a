"""The walls of the house: who may import whom, what an import may touch, and where tests and packages lie."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import collectors

ROOT = Path(__file__).parent.parent
ROOMS = ("etl", "collectors", "warehouse", "models", "dashboard")
STORE, PIPELINE, PAGE, LEARNING = {"duckdb", "polars"}, {"prefect"}, {"dash", "plotly"}, {"pandas", "sklearn", "scipy"}
ANYTHING_HEAVY = STORE | PIPELINE | PAGE | LEARNING | {"torch", "transformers"}


def in_fresh_interpreter(code: str, *arguments: str) -> Any:
    """Run code in a new interpreter that has imported nothing yet; what it printed, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def loaded_by(module: str) -> set[str]:
    """Top-level names in sys.modules after importing one module."""
    code = "import importlib, json, sys; importlib.import_module(sys.argv[1]); print(json.dumps(list(sys.modules)))"
    return {name.partition(".")[0] for name in in_fresh_interpreter(code, module)}


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported_names(path: Path) -> set[str]:
    """Top-level names a file imports anywhere, deferred imports and importlib calls with a literal included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=aliases):
                names |= {alias.name for alias in aliases}
            case ast.ImportFrom(module=str(module), level=0):
                names.add(module)
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(module)), *_]):
                names.add(module)
    return {name.partition(".")[0] for name in names}


def test_import_contracts_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_collector_is_under_the_independence_contract() -> None:
    (contract,) = [
        contract
        for contract in project()["tool"]["importlinter"]["contracts"]
        if contract["name"] == "Collectors never import one another"
    ]
    expected = [f"collectors.{name}" for name in collectors.names()]
    assert contract["modules"] == expected, "List every collector in that contract of pyproject.toml."


@pytest.mark.parametrize(
    "module",
    [
        "warehouse.schema",
        "warehouse.metrics",
        "warehouse.parquet",
        "warehouse.catalog",
        "models.analytical",
        "collectors",
    ],
)
def test_the_contract_and_the_arithmetic_load_nothing_heavy(module: str) -> None:
    assert not loaded_by(module) & ANYTHING_HEAVY


@pytest.mark.parametrize("name", ["roofline", "published", "from_torch_trace"])
def test_a_collector_that_measures_nothing_needs_no_torch(name: str) -> None:
    assert not loaded_by(f"collectors.{name}") & ANYTHING_HEAVY


@pytest.mark.parametrize("name", collectors.names())
def test_a_bare_node_loads_neither_store_nor_pipeline_nor_page(name: str) -> None:
    assert not loaded_by(f"collectors.{name}") & (STORE | PIPELINE | PAGE | LEARNING)


def test_the_command_line_defers_what_is_slow() -> None:
    assert not loaded_by("etl.cli") & (ANYTHING_HEAVY - {"duckdb"})


def test_the_dashboard_loads_neither_torch_nor_the_pipeline() -> None:
    assert not loaded_by("dashboard.app") & (PIPELINE | {"torch", "transformers"})


IMPORT_EVERYTHING = """
import _collections_abc, importlib, json, os, pkgutil, sys

root, rooms = sys.argv[1], sys.argv[2:]
plumbing = (os.__file__, os.__spec__.origin, "<frozen os>", _collections_abc.__file__, "<frozen _collections_abc>")
touched = []

def ours(names=frozenset()):
    # file:line of our code that is doing this and spells one of the names, if any are given; else None
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename in plumbing:
        frame = frame.f_back
    if frame is None:
        return None
    path = frame.f_code.co_filename
    room = os.path.relpath(path, root).split(os.sep)[0] if path.startswith(root) else ""
    is_named = not names or not names.isdisjoint(frame.f_code.co_names)
    return f"{os.path.relpath(path, root)}:{frame.f_lineno}" if room in rooms and is_named else None

def watch(event, arguments):
    # urllib3 asks whether IPv6 works by binding port 0 of this machine
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo"):
        if event != "socket.bind" or arguments[1] not in (("localhost", 0), ("::1", 0), ("127.0.0.1", 0)):
            touched.append(f"{event} {arguments[1:]}")
    elif event in ("os.putenv", "os.unsetenv", "subprocess.Popen", "os.mkdir"):
        where = ours()
        if where:
            touched.append(f"{where} {event}")

sys.addaudithook(watch)

# reading a variable raises no audit event; a compiled library that reads one has no frame of its own, so its caller must name it
read = os._Environ.__getitem__
def watched_read(self, key):
    where = ours({"environ", "environb", "getenv", "expandvars"})
    if where:
        touched.append(f"{where} reads {key}")
    return read(self, key)
os._Environ.__getitem__ = watched_read

imported = []
for room in rooms:
    package = importlib.import_module(room)
    for module in pkgutil.walk_packages(package.__path__, room + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            imported.append(module.name)
if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
    touched.append("torch.cuda is initialized")
print()
print(json.dumps({"imported": imported, "touched": touched}))
"""


def test_importing_touches_no_variable_no_network_and_no_gpu() -> None:
    seen = in_fresh_interpreter(IMPORT_EVERYTHING, str(ROOT), *ROOMS)
    assert {f"collectors.{name}" for name in collectors.names()} <= set(seen["imported"])
    assert seen["touched"] == []


def test_the_watch_sees_what_it_should(tmp_path: Path) -> None:
    room = tmp_path / "room"
    room.mkdir()
    (room / "__init__.py").write_text(
        "import os, socket\n"
        "os.environ.get('A')\n"
        "os.getenv('B')\n"
        "'C' in os.environ\n"
        "os.environ['D'] = '1'\n"
        "socket.socket(type=socket.SOCK_DGRAM).connect(('127.0.0.1', 9))\n"
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{IMPORT_EVERYTHING}"
    touched = in_fresh_interpreter(code, str(tmp_path), "room")["touched"]
    assert [line.partition(":")[2] or line for line in touched[:4]] == [
        "2 reads A",
        "3 reads B",
        "4 reads C",
        "5 os.putenv",
    ]
    assert touched[4].startswith("socket.connect")


def test_one_door_to_duckdb() -> None:
    doors = {
        str(path.relative_to(ROOT))
        for room in ROOMS
        for path in python_files(room)
        if imported_names(path) & {"duckdb", "duckdb_extensions"}
    }
    assert doors == {"warehouse/store.py"}


def test_no_init_under_tests() -> None:
    # tests/models/__init__.py would shadow the package models
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_every_package_of_the_root_is_built_and_no_other() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    built = project()["tool"]["setuptools"]["packages"]["find"]["include"]
    assert packages == set(ROOMS)
    assert sorted(built) == sorted(f"{room}*" for room in ROOMS)
    assert set(project()["tool"]["importlinter"]["root_packages"]) == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_every_folder_with_modules_is_a_package(room: str) -> None:
    # modules of a folder without __init__.py escape the import contracts
    folders = {path.parent for path in python_files(room)}
    assert [str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").exists()] == []
