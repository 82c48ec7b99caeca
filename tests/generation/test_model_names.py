"""Models by name: folders, the hub, MLflow's registry."""

import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from aerialdreams.cli.masks import resolve_models
from aerialdreams.data.images import write_mask
from aerialdreams.errors import UserError
from aerialdreams.models.families import load_base
from aerialdreams.params import load_params
from aerialdreams.pipeline.model_names import model_folder
from aerialdreams.pipeline.tracking import register_model, training_run
from tests.hub import COMMIT, serve_hub
from tests.projects import run


def test_a_model_of_the_hub(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = whole / "models/controlnet"
    with serve_hub("models/lab/aerial", monkeypatch) as hub:
        for path in folder.rglob("*"):
            if path.is_file():
                hub.files[path.relative_to(folder).as_posix()] = path.read_bytes()
        found = model_folder("lab/aerial", "--controlnet")
        assert found.name == COMMIT
        for name in ("aerialdreams.json", "unet/config.json"):
            assert (found / name).read_bytes() == (folder / name).read_bytes()
        assert model_folder(f"lab/aerial@{COMMIT}", "--controlnet") == found
        with pytest.raises(UserError, match="--base: the hub has no lab/other"):
            model_folder("lab/other", "--base")
        with pytest.raises(UserError, match="no revision 'v9'"):
            model_folder("lab/aerial@v9", "--controlnet")


def test_of_a_base_on_the_hub_only_what_is_needed_is_downloaded(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = whole / "models/adapted_base"
    arguments = Namespace(controlnet=str(whole / "models/controlnet"), base="lab/base")
    with serve_hub("models/lab/base", monkeypatch) as hub:
        for path in folder.rglob("*"):
            if path.is_file():
                hub.files[path.relative_to(folder).as_posix()] = path.read_bytes()
        for other in ("base.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"):
            hub.files[other] = b"another form of the weights"
        resolve_models(arguments)
    names = {p.relative_to(arguments.base).as_posix() for p in arguments.base.rglob("*.*")}
    assert "unet/diffusion_pytorch_model.safetensors" in names
    assert not names & {"base.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"}
    assert load_base(arguments.base).unet.config["in_channels"] == 16


def test_a_version_of_the_registry(
    whole: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(whole / "models/controlnet", workdir / "models/controlnet")
    with training_run({}, [], workdir / "run-id") as tracked:
        register_model(tracked, Path("models/controlnet"), "abc.dir")
    found = model_folder("models:/aerialdreams-controlnet/1", "--controlnet")
    path = "diffusion_pytorch_model.safetensors"
    assert (found / path).read_bytes() == (whole / "models/controlnet" / path).read_bytes()
    with pytest.raises(UserError, match="models:/aerialdreams-controlnet/7"):
        model_folder("models:/aerialdreams-controlnet/7", "--controlnet")


def test_outside_of_a_project(whole: Path, tmp_path: Path) -> None:
    """A folder with a mask is enough, with the models anywhere; no repository, no DVC."""
    mask = np.full((64, 64), 10, np.uint8)
    write_mask(tmp_path / "mask.png", mask, load_params().classes)
    models = ["--controlnet", f"{whole}/models/controlnet"]
    models += ["--base", f"{whole}/models/adapted_base"]
    ended = run(tmp_path, "aerialdreams", "generate", "mask.png", "--steps", "1", *models)
    assert ended.returncode == 0, ended.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"mask.png", "mask-photograph.png"}
