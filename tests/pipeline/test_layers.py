"""Imports run one way through the package's rooms, without circles, and change nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "aerialdreams"
# Each layer may import those before it, and its own.
LAYERS = (
    {"errors", "paths"},
    {"util"},
    {"data"},
    {"osm", "sample", "models"},
    {"training", "generation"},
    {"evaluation"},
    {"serve"},
    {"param_groups", "params", "pipeline"},
    {"cli"},
    {"stages"},
)
RANK = {room: rank for rank, layer in enumerate(LAYERS) for room in layer}
MODULES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "stages").glob("*.py")])


def room_of(path: Path) -> str:
    """The room of a module: a folder of the package, a module beside them, or `stages`."""
    parts = path.relative_to(ROOT).parts
    return parts[0] if parts[0] == "stages" else parts[1].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """All modules of the project that a file imports, wherever in it."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in imported if name.split(".")[0] in ("aerialdreams", "stages")}


def room_named(name: str) -> str:
    """The room that an imported name is in."""
    parts = name.split(".")
    return parts[0] if parts[0] == "stages" else parts[1] if len(parts) > 1 else "__init__"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_run_one_way(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":  # gives Painter on first use
        return
    wrong = [
        name
        for name in sorted(imports_of(path))
        if room_named(name) != "__init__" and RANK[room_named(name)] > RANK[room]
    ]
    assert not wrong


def test_rooms_of_one_layer_do_not_import_each_other() -> None:
    arrows = {
        (room_of(path), room_named(name))
        for path in MODULES
        for name in imports_of(path)
        if room_of(path) != "__init__"
    }
    beside = {(a, b) for a, b in arrows if a != b and RANK.get(a) == RANK.get(b)}
    assert beside == {
        ("params", "param_groups"),
        ("pipeline", "params"),
    }


def test_stages_do_not_import_each_other() -> None:
    for path in (ROOT / "stages").glob("*.py"):
        assert not {name for name in imports_of(path) if name.startswith("stages")}, path


IMPORT_ALL = """
import logging, os, pkgutil, sys
from importlib import import_module
import torch, mlflow, diffusers, transformers, datasets, dvc.repo, rasterio, accelerate
levels = {name: logging.getLogger(name).level for name in list(logging.root.manager.loggerDict)}
before, root = dict(os.environ), logging.root.level
import aerialdreams
for module in pkgutil.walk_packages(aerialdreams.__path__, "aerialdreams."):
    if not module.name.endswith("__main__"):
        import_module(module.name)
from aerialdreams import Painter
assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())
assert logging.root.level == root
for name, level in levels.items():
    assert logging.getLogger(name).level == level, name
with rasterio.Env() as env:
    assert "GDAL_DISABLE_READDIR_ON_OPEN" not in env.options
"""


@pytest.mark.slow
def test_importing_the_package_changes_nothing() -> None:
    """Other libraries are imported first: what they do to the process is theirs."""
    ended = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    plain = "import os; before = dict(os.environ); import aerialdreams; assert os.environ == before"
    subprocess.run([sys.executable, "-c", plain], cwd=ROOT, check=True)
