"""The whole pipeline with near infrared and height, small, and what users do with its model."""

import base64
import io
import json
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
import requests
import torch
from diffusers import StableDiffusionPipeline

from aerialdreams.data.images import read_bands
from aerialdreams.models.model_info import ModelInfo
from tests.conftest import ROOT
from tests.projects import SMALL, git_clone, run, run_stages, set_params
from tests.serve.conftest import serve
from tests.serve.test_api import encode, make, mask_of, recipe

BANDS = ("red", "green", "blue", "near_infrared", "height")


@pytest.fixture(scope="module")
def five_bands(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of which all stages have run with five bands."""
    from aerialdreams.params import load_params

    project = tmp_path_factory.mktemp("bands") / "project"
    git_clone(ROOT, project)
    done = run(project, "aerialdreams", "settings", "bands")
    assert done.returncode == 0, done.stderr
    set_params(project, SMALL)
    raw = {"source": "folder", "folder": str(whole / "data/raw")}
    set_params(project, {"raw_patches": raw, "osm_metadata": {"backend": "none"}})
    few = {"steps": 10}
    set_params(project, {"train_controlnet": few, "base_model": {"tiny": {"unet": few}}})
    set_params(project, {"train_segmenter": few, "evaluate_utility": {"steps": 2}})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.delenv("DVC_ROOT", raising=False)
        run_stages(load_params())
    return project


def generated(project: Path) -> Path:
    """The first generated validation image."""
    return sorted((project / "data/generated/validation/generated").glob("IMG_??????.png"))[0]


def test_generated_files_have_all_bands(five_bands: Path) -> None:
    png = generated(five_bands)
    image = read_bands(png, BANDS[3:])
    with rasterio.open(png.with_suffix(".tif")) as file:
        assert file.descriptions == BANDS
        assert np.array_equal(file.read(), image.transpose(2, 0, 1))
        assert file.scales[4] == 0.2
    assert image[..., 3].std() > 1
    (mosaic,) = png.parent.glob("*-colour-infrared.vrt")
    with rasterio.open(mosaic) as file:
        assert file.descriptions == ("near_infrared", "red", "green")
    for name in ("", "_colour_infrared", "_height"):
        assert (five_bands / f"data/generated/validation{name}.png").is_file()


def test_bands_are_measured_beside_real_ones(five_bands: Path) -> None:
    evaluation = json.loads((five_bands / "metrics/evaluation.json").read_text())
    for split in ("validation", "test"):
        numbers = evaluation[split]
        assert numbers["generated"]["all_bands"]["miou"] > 0
        # The autoencoder keeps the bands; a ControlNet of ten steps does not know them yet.
        for key in ("ndvi_difference", "height_difference"):
            assert numbers["reconstructed"][key] < numbers["generated"][key]
        assert set(numbers["floor"]["ndvi"]) <= set(numbers["real"]["iou"])
    utility = json.loads((five_bands / "metrics/utility.json").read_text())
    assert "miou_of_real" in utility["generated_all_bands"]
    assert "miou_of_real" not in utility["real_all_bands"]
    page = (five_bands / "data/report.html").read_text()
    assert "NDVI: real" in page
    assert "height, m: real" in page


def test_the_base_is_a_diffusers_pipeline(five_bands: Path) -> None:
    import aerialdreams.models.linear_autoencoder  # noqa: F401  (so that diffusers finds the class)

    base = StableDiffusionPipeline.from_pretrained(five_bands / "models/base")
    images = base(
        "Aerial view.",
        height=64,
        width=64,
        num_inference_steps=2,
        output_type="np",
        generator=torch.Generator().manual_seed(0),
    ).images
    assert images.shape == (1, 64, 64, 5)
    info = ModelInfo.load(five_bands / "models/controlnet")
    assert info.further == (("near_infrared", "height"), (0, 51))


def aerialdreams(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command in the project."""
    return run(project, "aerialdreams", *words)


def test_generate_and_edit_have_all_bands(five_bands: Path, tmp_path: Path) -> None:
    mask = sorted((five_bands / "data/generated/validation/masks").glob("*.tif"))[0]
    done = aerialdreams(five_bands, "generate", str(mask), "--output", str(tmp_path / "a.tif"))
    assert done.returncode == 0, done.stderr
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.descriptions == BANDS
        photograph = file.read()
    words = ("generate", str(mask), "--output", str(tmp_path / "a.png"))
    assert aerialdreams(five_bands, *words).returncode == 0
    image = read_bands(tmp_path / "a.png", BANDS[3:])
    assert np.array_equal(image.transpose(2, 0, 1), photograph)

    with rasterio.open(mask) as file:
        ids, profile = file.read(1), file.profile | {"driver": "GTiff"}
    ids[20:40, 20:40] = 1 if ids[20, 20] != 1 else 5
    with rasterio.open(tmp_path / "after.tif", "w", **profile) as file:
        file.write(ids, 1)
    edit = ("edit", str(mask), str(tmp_path / "after.tif"), "--output", str(tmp_path / "edit"))
    done = aerialdreams(five_bands, *edit, "--photograph", str(tmp_path / "a.tif"))
    assert done.returncode == 0, done.stderr
    with rasterio.open(tmp_path / "edit/after.tif") as file:
        assert file.descriptions == BANDS
        edited = file.read()
    assert np.array_equal(edited[:, :10], photograph[:, :10])
    assert (edited[4, 20:40, 20:40] != photograph[4, 20:40, 20:40]).any()
    with rasterio.open(tmp_path / "rgb.tif", "w", **(profile | {"count": 3})) as file:
        file.write(photograph[:3])
    refused = aerialdreams(five_bands, *edit, "--photograph", str(tmp_path / "rgb.tif"))
    assert refused.returncode == 2
    assert "rgb.tif: has 3 bands of uint8; a photograph has red, green and blue" in refused.stderr
    assert "the model's 2 further bands" in refused.stderr


def test_the_page_shows_colours_and_gives_all_bands(five_bands: Path, tmp_path: Path) -> None:
    with serve(five_bands, tmp_path) as address:
        patches = requests.get(f"{address}/api/patches", timeout=10).json()
        chosen = {key: patches[0][key] for key in ("split", "row")}
        ground = requests.post(f"{address}/api/grounds/patch", json=chosen, timeout=10).json()
        assert not ground["has_photograph"]
        wish = recipe(mask_of(), steps=2)
        job, image = make(address, wish | {"place": ground["place"]})
        assert image.shape == (64, 64, 3)
        archive = requests.get(f"{address}/api/jobs/{job['id']}/result.zip", timeout=10).content
        with zipfile.ZipFile(io.BytesIO(archive)) as files:
            (tmp_path / "image.tif").write_bytes(files.read("image-1.tif"))
        with rasterio.open(tmp_path / "image.tif") as file:
            assert file.descriptions[:5] == BANDS
            assert np.array_equal(file.read()[:3].transpose(1, 2, 0), image)
        # An edit starts from a mask: a PNG lacks two of the bands.
        url = f"{address}/api/jobs/{job['id']}/images/1.png"
        photograph = requests.get(url, timeout=10).content
        start = {"mask": encode(mask_of().T), "photograph": base64.b64encode(photograph).decode()}
        edit = wish | {"start": start}
        refused = requests.post(f"{address}/api/jobs", json=edit, timeout=10)
        assert refused.status_code == 422
        assert "start.photograph: is a PNG, which has no band for the model's" in refused.text
        del start["photograph"]
        _, edited = make(address, edit)
        assert not np.array_equal(edited, image)
