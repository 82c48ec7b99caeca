"""What identifies a training, and with it its checkpoint: params, inputs and code.

Trainings that differ in their seeds alone have the same recipe.
"""

import ast
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from aerialdreams.util.files import dvc_md5

PACKAGE = Path(__file__).parent.parent
LOCK = Path("dvc.lock")
SEED = "train_controlnet.seed"  # the seed that names a training among those of its recipe
SEEDS = (SEED, "base_model.tiny.seed", "adapt_base.seed", "generate_validation.seed")
# Groups of params that change how the work is done, not its result.
EXECUTION = ("runtime.", "tracking.")


def without_seeds(params: Mapping[str, Any]) -> dict[str, Any]:
    """The params, by dotted name, that make a recipe."""
    return {
        key: value
        for key, value in params.items()
        if key not in SEEDS and not key.startswith(EXECUTION)
    }


def recipe_of(params: Mapping[str, Any]) -> str:
    """Short name of a recipe: the start of a hash of its params without the seeds.

    Args:
        params: of params.yaml, by dotted name.
    """
    text = json.dumps(without_seeds(params), sort_keys=True, default=str)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:8]


def training_identity(
    params: Mapping[str, Any], inputs: Iterable[Path], scripts: Iterable[str], rooms: Iterable[str]
) -> dict[str, Any]:
    """What decides the weights of a training; see `util.scratch.work_folder`.

    Args:
        params: those that decide the weights, by name.
        inputs: files and folders that the stage reads.
        scripts: the stage's `__file__`, and those of other modules that decide the weights.
        rooms: the folders of the package whose code decides the weights.
    """
    files = [
        *map(Path, scripts),
        *(p for room in rooms for p in sorted((PACKAGE / room).glob("*.py"))),
    ]
    return {
        "params": dict(params),
        "inputs": {path.as_posix(): input_md5(path) for path in inputs},
        "code": {f"{file.parent.name}/{file.name}": code_hash(file) for file in files},
    }


def code_hash(path: Path) -> str:
    """Hash of what a Python file does: comments, docstrings and layout do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and (
            ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def input_md5(path: Path) -> str:
    """DVC's hash of a stage's input.

    While DVC runs a stage, dvc.lock has the hashes of its inputs. They are read from there, because
    hashing the latents of a large dataset takes minutes. A stage run by hand hashes its inputs.
    """
    if "DVC_ROOT" in os.environ:
        known = _locked_hashes().get(path.as_posix())
        if known:
            return known
    return dvc_md5(path)


@cache
def _locked_hashes() -> dict[str, str]:
    if not LOCK.is_file():
        return {}
    stages = (yaml.safe_load(LOCK.read_text(encoding="utf-8")) or {}).get("stages", {})
    return {
        out["path"]: out["md5"]
        for stage in stages.values()
        for out in stage.get("outs", [])
        if "md5" in out
    }
