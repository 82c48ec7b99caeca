"""Settings over params.yaml: every one composes, is valid, and leaves the rest as it is."""

import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from aerialdreams.errors import UserError
from aerialdreams.params import load_params
from aerialdreams.pipeline import settings
from tests.conftest import ROOT

NAMES = sorted(path.stem for path in (ROOT / "settings").glob("*.yaml"))


@pytest.fixture
def project(workdir: Path) -> Path:
    """A folder with the project's params and settings."""
    shutil.copy(ROOT / "params.yaml", workdir)
    shutil.copytree(ROOT / "settings", workdir / "settings")
    return workdir


def test_no_settings_change_no_byte(project: Path) -> None:
    (project / "settings/none.yaml").write_text("{}\n")
    assert settings.apply_settings(["none"]) == []
    assert (project / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_each_is_valid_and_says_what_it_changes(project: Path, name: str) -> None:
    changed = settings.apply_settings([name])
    load_params()
    assert bool(changed) == (name != "default")
    if not changed or "dataset_spec" in changed[0]:  # another class table has other lines
        return
    old, new = (path.read_text() for path in (ROOT / "params.yaml", project / "params.yaml"))
    lines = zip(old.splitlines(), new.splitlines(), strict=True)
    differing = [(before, after) for before, after in lines if before != after]
    assert len(differing) == len(changed)  # a line each; comments, order and spaces stay
    for before, after in differing:
        assert before.partition("#")[2] == after.partition("#")[2]


@pytest.mark.parametrize("names", list(itertools.permutations(["flair", "sd21", "gpu"])))
def test_the_real_thing_composes_in_any_order(project: Path, names: tuple[str, ...]) -> None:
    settings.apply_settings(list(names))
    params = load_params()
    assert params.raw_patches.source == "full" and params.base_model.source == "hub"
    assert params.train_controlnet.precision == "bf16" and params.image_size == 512
    assert params.train_segmenter.source == "ign"


def test_the_later_one_holds(project: Path) -> None:
    settings.apply_settings(["sd21", "gpu", "gpus"])
    assert load_params().train_controlnet.gradient_accumulation == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train_controlnet: {stepz: 1}", "settings/mine.yaml: train_controlnet.stepz: unknown key"),
        ("train_controlnet: {steps: 0}", "params.yaml: train_controlnet.steps: is 0"),
    ],
)
def test_wrong_settings_leave_params_alone(project: Path, text: str, message: str) -> None:
    (project / "settings/mine.yaml").write_text(text)
    before = (project / "params.yaml").read_text()
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        settings.apply_settings(["mine"])
    assert (project / "params.yaml").read_text() == before
    with pytest.raises(
        UserError, match=r"settings/nowhere\.yaml: not found; available: adapted, bands, default"
    ):
        settings.apply_settings(["nowhere"])


def test_the_command(project: Path) -> None:
    command = [sys.executable, "-m", "aerialdreams.cli", "settings"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(name in listed for name in NAMES)
    put = subprocess.run([*command, "gpu"], capture_output=True, text=True, check=True)
    assert "train_controlnet.precision: fp32 -> bf16" in put.stdout
    assert yaml.safe_load((project / "params.yaml").read_text())["runtime"]["loaders"] == 4


@pytest.mark.parametrize("name", ["params.yaml", "settings/gpu.yaml"])
def test_a_file_that_is_not_utf8_is_one_message(project: Path, name: str) -> None:
    path = project / name
    path.write_bytes(b"# r\xe9glages\n" + path.read_bytes())
    before = (project / "params.yaml").read_bytes()
    with pytest.raises(UserError, match=r"line 1 is not UTF-8"):
        settings.apply_settings(["gpu"])
    assert (project / "params.yaml").read_bytes() == before
