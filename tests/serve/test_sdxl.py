"""Edits, from the shell and by the page's API, with an SDXL as the base model."""

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
import yaml

from aerialdreams.data.images import read_image, write_image, write_mask
from aerialdreams.generation.editing import repaint_weights
from aerialdreams.models.segmenter import Segmenter
from aerialdreams.params import Params, load_params
from aerialdreams.paths import ADAPTED_BASE, CONTROLNET, SEGMENTER
from tests.conftest import ROOT
from tests.projects import merge, run
from tests.serve.conftest import serve
from tests.serve.test_api import BUILDING, encode, make, mask_of, recipe
from tests.tiny import info_of, new_model, save_base, tiny_sdxl
from tests.training.test_train_controlnet import SMALL

pytestmark = pytest.mark.slow
MARGIN = 4
SAMPLING = {"steps": 2, "guidance": 3.0}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with an SDXL, a ControlNet and a judge of noise, images of 32 pixels."""
    folder = tmp_path_factory.mktemp("sdxl")
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    merge(values, SMALL)
    params = Params.model_validate(values)
    base = tiny_sdxl(params, ["Aerial view. water, building."])
    save_base(base, folder / ADAPTED_BASE)
    model = new_model(params, base)
    for weight in model.controlnet.parameters():  # a new ControlNet adds nothing
        weight.data += torch.randn_like(weight) * 0.05
    model.controlnet.save_pretrained(folder / CONTROLNET)
    info_of(params).save(folder / CONTROLNET)
    (folder / SEGMENTER).mkdir()
    Segmenter([8, 8], len(params.classes)).save(folder / SEGMENTER)
    return folder


@pytest.fixture(scope="module")
def sdxl_server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `aerialdreams serve` in that project."""
    with serve(models, tmp_path_factory.mktemp("server")) as address:
        yield address


def test_edit_repaints_what_changes(models: Path, tmp_path: Path) -> None:
    """A photograph of several tiles."""
    classes, before = load_params(ROOT / "params.yaml").classes, mask_of()
    after = before.copy()
    after[30:40, 30:44] = BUILDING
    write_mask(tmp_path / "before.png", before, classes)
    write_mask(tmp_path / "after.png", after, classes)
    photograph = np.random.default_rng(3).integers(0, 256, (*before.shape, 3), np.uint8)
    write_image(tmp_path / "photograph.png", photograph)
    words = ["before.png", "after.png", "--photograph", "photograph.png", "--margin", str(MARGIN)]
    words += ["--steps", "2", "--guidance", "3", "--negative-prompt", "snow."]
    words += ["--controlnet", str(models / CONTROLNET), "--base", str(models / ADAPTED_BASE)]
    ended = run(tmp_path, "aerialdreams", "edit", *words)
    assert ended.returncode == 0, ended.stderr
    image = read_image(tmp_path / "before-edit/after.png")
    kept = repaint_weights(before != after, MARGIN) == 0
    assert np.array_equal(image[kept], photograph[kept])
    assert (image != photograph)[before != after].any(1).mean() > 0.9


def test_the_page_makes_images_again(sdxl_server: str) -> None:
    model = requests.get(f"{sdxl_server}/api/model", timeout=10).json()
    assert model["image_size"] == 32
    assert requests.get(f"{sdxl_server}/api/patches", timeout=10).json() == []
    job, image = make(sdxl_server, recipe(mask_of(), prompt="water.", **SAMPLING))
    assert image.shape == (64, 64, 3) and 0 <= job["judged"][0]["pixel_accuracy"] <= 1
    saved = requests.get(f"{sdxl_server}/api/jobs/{job['id']}/recipe.json", timeout=10).json()
    assert np.array_equal(make(sdxl_server, saved)[1], image)
    # Mask, caption and negative prompt all steer.
    changes = [{"mask": encode(mask_of().T)}, {"prompt": "building."}, {"negative_prompt": "snow."}]
    others = [make(sdxl_server, saved | values)[1] for values in changes]
    assert len({other.tobytes() for other in [image, *others]}) == 4


def test_the_page_edits_what_it_made(sdxl_server: str) -> None:
    before, after = mask_of(), mask_of()
    after[30:40, 30:44] = BUILDING
    job, _ = make(sdxl_server, recipe(before, **SAMPLING))
    url = f"{sdxl_server}/api/jobs/{job['id']}/images/1.png"
    photograph = requests.get(url, timeout=10).content
    start = {"mask": encode(before), "photograph": base64.b64encode(photograph).decode()}
    _, edited = make(sdxl_server, recipe(after, start=start, margin=MARGIN, **SAMPLING))
    start = {"mask": encode(before)}  # without a photograph the server draws it first
    _, same = make(sdxl_server, recipe(after, start=start, margin=MARGIN, **SAMPLING))
    assert np.array_equal(edited, same)
    _, drawn = make(sdxl_server, recipe(before, **SAMPLING))
    kept = repaint_weights(before != after, MARGIN) == 0
    assert np.array_equal(edited[kept], drawn[kept]) and not np.array_equal(edited, drawn)
