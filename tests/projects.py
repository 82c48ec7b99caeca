"""The whole pipeline in fresh clones, small, as a user runs it."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from accelerate.state import AcceleratorState

from aerialdreams.params import Params
from tests.conftest import ROOT

SMALL = {
    "runtime": {"checkpoint_every": 5},
    "image_size": 64,
    "raw_patches": {
        "sample": {
            "zone_side": 2,
            "zones": {
                "D038_2021": ["Z1_UA", "Z2_FN"],
                "D014_2020": ["Z1_UA"],
                "D022_2021": ["Z1_AU"],
            },
        },
    },
    "compose_masks": {"masks": 4, "shares": {"building": 30}},
    "base_model": {
        "tiny": {
            "autoencoder": {"refinement_channels": 9, "refinement_steps": 10},
            "unet": {"steps": 30, "channels": [16, 24, 32], "crop": 48},
        },
    },
    "evaluate_utility": {"seeds": 2, "steps": 10},
    "train_segmenter": {"steps": 60, "channels": [8, 16, 24]},
    "train_controlnet": {"steps": 40, "crop": 48, "sampling": {"steps": 2}},
    "tracking": {"log_every": 10, "images_every": 20, "images": 2},
    "generate_validation": {"batch_size": 4, "grid_rows": 2},
}


def merge(values: dict[str, Any], changes: dict[str, Any]) -> None:
    """Put changes into nested params; of the sample's zones the whole table is replaced."""
    for key, value in changes.items():
        if isinstance(value, dict) and key != "zones":
            merge(values[key], value)
        else:
            values[key] = value


def params_of(place: Path) -> dict[str, Any]:
    """A clone's params.yaml."""
    values: dict[str, Any] = yaml.safe_load((place / "params.yaml").read_text())
    return values


def set_params(place: Path, changes: dict[str, Any]) -> None:
    """Change some of a clone's params."""
    values = params_of(place)
    merge(values, changes)
    (place / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def run_stages(params: Params) -> None:
    """Run all stages in this process and folder, in dvc.yaml's order: faster than `dvc repro`."""
    AcceleratorState._reset_state(reset_partial_state=True)  # one a process, in the real thing
    for name in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]:
        importlib.import_module(f"stages.{name.replace('-', '_')}").main(params)


def git_clone(source: Path, place: Path) -> None:
    """Clone a repository; the clone has a git identity of its own, as commits need one."""
    subprocess.run(["git", "clone", "-q", str(source), str(place)], check=True)
    for key, value in (("user.name", "test"), ("user.email", "test@localhost")):
        subprocess.run(["git", "config", key, value], cwd=place, check=True)


def clone(place: Path) -> Path:
    """A fresh clone of what is committed, with small params as a commit of its own."""
    git_clone(ROOT, place)
    set_params(place, SMALL)
    commit(place, "small")
    return place


def commit(place: Path, message: str) -> None:
    """Commit all changes of a clone."""
    subprocess.run(["git", "commit", "-qam", message], cwd=place, check=True)


def environment() -> dict[str, str]:
    """A user's shell with this virtual environment, without MLflow's configuration."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW")}
    return kept | {"PATH": path, "DVC_NO_ANALYTICS": "1"}


def run(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command in a clone; how it ended and what it said."""
    return subprocess.run(words, cwd=place, env=environment(), capture_output=True, text=True)


def dvc(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`dvc` in a clone."""
    return run(place, "dvc", *words)


def use(project: Path, url: str) -> None:
    """Set a clone's remote, as the README says, where git does not see it."""
    ended = dvc(project, "remote", "modify", "--local", "storage", "url", url)
    assert ended.returncode == 0, ended.stderr


def colleague(whole: Path, place: Path, url: str) -> Path:
    """Another clone, with the remote and nothing else."""
    git_clone(whole, place)
    use(place, url)
    return place


def clone_with_cache(whole: Path, place: Path) -> Path:
    """A clone that has all data: it shares the first one's cache, as a team on one machine does."""
    git_clone(whole, place)
    assert dvc(place, "cache", "dir", "--local", str(whole / ".dvc/cache")).returncode == 0
    shutil.copytree(whole / "data/raw", place / "data/raw", symlinks=True)
    done = dvc(place, "checkout")
    assert done.returncode == 0, done.stderr
    return place
