"""Images on the ground: GeoTIFFs and VRTs, a killed run, large masks, a user's own mask."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import yaml
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from rasterio.crs import CRS

from aerialdreams import Painter
from aerialdreams.cli import main
from aerialdreams.data.georeference import GeoReference
from aerialdreams.data.images import read_image, write_mask
from aerialdreams.data.land_cover import mask_to_rgb
from aerialdreams.data.rasters import write_geotiff, write_vrt
from aerialdreams.data.tiles import read_tile
from aerialdreams.generation import batch
from aerialdreams.generation.batch import GenerationRequest, generate_batch
from aerialdreams.generation.tiling import blend_tiles
from aerialdreams.models.controlnet import load_controlnet
from aerialdreams.models.families import load_base
from aerialdreams.params import Params, load_params
from aerialdreams.paths import CONTROLNET
from aerialdreams.util.files import dvc_md5
from stages import generate_validation
from tests.conftest import DATA
from tests.tiny import conditioning_of, info_of, new_model, sampling_of
from tests.training.test_train_controlnet import (  # noqa: F401  (prepared is a fixture)
    environment,
    new_place,
    prepared,
    settle,
)


@pytest.fixture
def place(prepared: Path, workdir: Path) -> Params:  # noqa: F811
    """A folder with a base and a ControlNet that steers a little, both of noise."""
    new_place(prepared, workdir)
    params = settle(workdir)
    model = new_model(params, load_base())
    for name, weight in model.controlnet.named_parameters():
        if "controlnet_down" in name or "controlnet_mid" in name or "conv_out" in name:
            weight.data.normal_(0, 0.1)
    model.controlnet.save_pretrained(CONTROLNET)
    info_of(params).save(CONTROLNET)
    return params


LAMBERT_93 = CRS.from_epsg(2154)
REFERENCE = GeoReference(Affine(0.2, 0, 961436.8, 0, -0.2, 6250000.0), LAMBERT_93)


def test_a_geotiff_lies_where_it_should(tmp_path: Path, params: Params) -> None:
    draw = np.random.default_rng(0)
    rgb = draw.integers(0, 256, (30, 40, 3), np.uint8)
    ids = draw.integers(1, 20, (30, 40), np.uint8)
    write_geotiff(tmp_path / "a.tif", rgb, REFERENCE, {"SYNTHETIC": "YES"})
    write_geotiff(tmp_path / "b.tif", ids, REFERENCE, {}, params.classes)
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.crs == CRS.from_epsg(2154) and file.transform == REFERENCE.transform
        assert np.array_equal(file.read(), rgb.transpose(2, 0, 1))
        assert file.tags()["SYNTHETIC"] == "YES"
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    with rasterio.open(tmp_path / "b.tif") as file:
        assert np.array_equal(file.read(1), ids)
        assert file.colormap(1)[1] == (0xDB, 0x0E, 0x9A, 255)
    before = (tmp_path / "a.tif").read_bytes()
    write_geotiff(tmp_path / "a.tif", rgb, REFERENCE, {"SYNTHETIC": "YES"})
    assert (tmp_path / "a.tif").read_bytes() == before


def test_a_vrt_shows_tiles_as_one(tmp_path: Path, params: Params) -> None:
    whole = np.random.default_rng(0).integers(1, 20, (60, 60), np.uint8)
    files = []
    for row, column in ((0, 0), (1, 0), (1, 1)):  # the north-east is not there
        shift = Affine.translation(column * 30, row * 30)
        part = whole[row * 30 : row * 30 + 30, column * 30 : column * 30 + 30]
        files.append(tmp_path / f"{row}{column}.tif")
        reference = GeoReference(REFERENCE.transform @ shift, REFERENCE.crs)
        write_geotiff(files[-1], part, reference, {}, params.classes)
    write_vrt(tmp_path / "zone.vrt", files)
    with rasterio.open(tmp_path / "zone.vrt") as file:
        assert file.crs == LAMBERT_93 and file.transform.almost_equals(REFERENCE.transform)
        seen = file.read(1)
        assert file.colormap(1)[19] == (0, 0, 0, 255)
    whole[:30, 30:] = 0
    assert np.array_equal(seen, whole)


@pytest.mark.slow
def test_validation_images_and_a_run_that_was_cut(
    place: Params, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (workdir / "data").resolve()
    (workdir / "data").unlink()  # a link to what is prepared; the stage writes beside it
    (workdir / "data").mkdir()
    for name in ("dataset", "composed"):
        (workdir / "data" / name).symlink_to(data / name)
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["generate_validation"] |= {"samples": 2, "styles": ["Oil on canvas."], "batch_size": 3}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    params = load_params()
    said = generate_validation.main(params)
    assert said == "images for 6 masks generated (4 validation, 2 test), 4 per mask"
    folder = Path("data/generated")
    kinds = ["generated", "sample-2", "style-1", "untrained"]
    for kind in kinds:
        assert len(list(folder.glob(f"validation/{kind}/IMG_*.png"))) == 4
    images = [read_image(folder / f"validation/{kind}/IMG_000002.png") for kind in kinds]
    assert len({image.tobytes() for image in images}) == 4
    with rasterio.open(folder / "validation/generated/IMG_000002.tif") as file:
        assert np.array_equal(file.read().transpose(1, 2, 0), images[0])
        assert file.crs == LAMBERT_93
        assert tuple(file.bounds) == pytest.approx((700204.8, 6599897.6, 700307.2, 6.6e6))
        assert file.tags()["PROMPT"] == "Aerial view of 2."
        assert file.tags()["CONTROLNET_MD5"] == dvc_md5(CONTROLNET)
        assert "© IGN" in file.tags()["CREDITS"]
    with rasterio.open(folder / "validation/masks/D014_2020-Z1_UA.vrt") as zone:
        assert (zone.width, zone.height) == (4 * 32, 32)
    whole = dvc_md5(folder)
    assert not any(path.is_dir() for path in workdir.glob("scratch/generated-*"))

    # Killed after two batches, the next run makes the rest.
    generate, batches = generate_validation.generate_outputs, list[Any]()

    def counted(*words: Any) -> None:
        batches.append(words[1])
        if len(batches) == 3:
            raise KeyboardInterrupt
        generate(*words)

    monkeypatch.setattr(generate_validation, "generate_outputs", counted)
    with pytest.raises(KeyboardInterrupt):
        generate_validation.main(params)
    (kept,) = (path for path in workdir.glob("scratch/generated-*") if path.is_dir())
    assert len(list(kept.rglob("IMG_*.png"))) == 6
    generate_validation.main(params)  # the count is past the kill's
    assert dvc_md5(folder) == whole

    # Two processes share the batches.
    values["runtime"]["processes"] = 2
    Path("params.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "stages.generate_validation"]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "generate-validation: images for 6 masks generated" in ended.stdout
    assert dvc_md5(folder) == whole


SETTINGS: dict[str, dict[str, Any]] = {
    "ddim": {},
    "dpm++": {"sampler": "dpm++"},
    "unipc": {"sampler": "unipc"},
    "guidance": {"guidance": 4.0},
    "negative prompt": {"guidance": 4.0, "negative_prompt": "water, snow."},
    "conditioning scale": {"conditioning_scale": 0.3},
}


def painted(name: str) -> NDArray[np.uint8]:
    """A mask of one tile by the Painter, with some settings."""
    mask = np.full((32, 32), 5, np.uint8)
    return Painter().paint(mask, "Aerial view.", 3, steps=4, **SETTINGS[name])


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_one_tile_is_painted_as_by_diffusers(
    name: str, place: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same denoising as diffusers' own pipeline, from the same noise."""
    settings = dict(SETTINGS[name])
    negative_prompt = settings.pop("negative_prompt", "")
    seeded = batch.seeded_generator
    monkeypatch.setattr(batch, "seeded_generator", lambda seed, *keys: seeded(seed, "paint"))
    theirs = generate_batch(
        load_base(),
        load_controlnet(),
        conditioning_of(place),
        [GenerationRequest("x", np.full((32, 32), 5, np.uint8), "Aerial view.")],
        sampling_of(place, steps=4, **settings),
        3,
        negative_prompt,
    )[0]
    assert np.abs(painted(name).astype(int) - theirs).max() <= 1
    assert theirs.std() > 1


def test_every_setting_changes_the_image(place: Params) -> None:
    images = {name: painted(name).tobytes() for name in SETTINGS}
    assert len(set(images.values())) == len(SETTINGS)
    # Without guidance a negative prompt has no effect.
    mask = np.full((32, 32), 5, np.uint8)
    same = Painter().paint(mask, "Aerial view.", 3, negative_prompt="water.", steps=4)
    assert same.tobytes() == images["ddim"]


def largest_step() -> float:
    """The largest step between neighbouring pixels where tiles of 0 and of 1 are blended."""

    def compute(tiles: list[tuple[int, int]]) -> torch.Tensor:
        values = [float((y + x) // 8 % 2) for y, x in tiles]
        return torch.stack([torch.full((1, 64, 64), value) for value in values])

    blended = blend_tiles(compute, (1, 64, 96), 16, 4, torch.device("cpu"), scale=4)[0]
    return max(float(blended.diff(dim=axis).abs().max()) for axis in (0, 1))


def test_tiles_are_blended_without_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    assert largest_step() < 0.1
    monkeypatch.setattr(torch, "sin", torch.ones_like)  # all pixels of a tile weigh the same
    assert largest_step() > 0.4


def test_large_masks_are_painted_whole(place: Params) -> None:
    mask = np.full((96, 144), 5, np.uint8)
    image = Painter(batch_size=4).paint(mask, "Aerial view.", steps=3).astype(int)
    assert image.shape == (96, 144, 3)
    other = Painter(batch_size=1).paint(mask, "Aerial view.", steps=3)
    assert np.abs(image - other).max() <= 1  # whatever the batches of tiles
    odd = Painter().paint(mask[:33, :45], "Aerial view.", steps=1)
    assert odd.shape == (33, 45, 3)


def test_the_command_generates_from_a_flair_mask(
    place: Params, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (real,) = DATA.glob("flair/D004_2021/*/msk/*.tif")
    with pytest.raises(SystemExit) as ended:
        main(["generate", str(real), "--output", "out.tif", "--steps", "2", "--seed", "1"])
    assert ended.value.code == 0
    assert "out.tif: 32 x 32 pixels of 3.20 m generated" in capsys.readouterr().out
    with rasterio.open("out.tif") as ours, rasterio.open(real) as theirs:
        assert np.allclose(ours.bounds, theirs.bounds, atol=1e-6)
        assert ours.crs == theirs.crs
    # The same mask in FLAIR's colours gives the same image, and again the same bytes.
    rgb = mask_to_rgb(read_tile(real).bands[0], place.classes)
    Image.fromarray(rgb).save("colours.png")
    for name in ("a.png", "b.png"):
        with pytest.raises(SystemExit) as ended:
            main(["generate", "colours.png", "--pixel", "0.2", "--output", name, "--steps", "2",
                  "--seed", "1"])  # fmt: skip
        assert ended.value.code == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    assert np.array_equal(
        read_image(Path("a.png")), read_tile(Path("out.tif")).bands.transpose(1, 2, 0)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pixel", "nan"], "--pixel: 'nan' is not a number"),
        (["--pixel", "inf"], "--pixel: 'inf' is not a number"),
        (["--pixel", "-0.2"], "--pixel"),
        (["--pixel", "0"], "--pixel: '0' is not a number above 0"),
        (["--steps", "0"], "--steps: '0' is not a whole number above 0"),
        (["--steps=-3"], "--steps: '-3' is not a whole number above 0"),
        (["--guidance", "nan"], "--guidance: 'nan' is not a number at least 1"),
        (["--guidance", "0.5"], "--guidance: '0.5' is not a number at least 1"),
        (["--seed=-1"], "--seed: '-1' is not a whole number from 0"),
        (["--off-palette", "2"], "--off-palette: '2' is not a number from 0 to 1"),
        (["--prompt", "Vue a\udce9rienne"], "--prompt"),
        (["--output", "mask.png"], "--output: mask.png: is the mask, which would be overwritten"),
        (["--output", "photo.jpg"], "--output: photo.jpg: must end in .png"),
        (["--output", "photo.tif"], "must end in .png: the mask has no georeference"),
        (["--controlnet", "nowhere"], "nowhere/aerialdreams.json: not found"),
    ],
)
def test_a_wrong_argument_is_one_message(
    arguments: list[str], message: str, place: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mask(Path("mask.png"), np.full((32, 32), 5, np.uint8), place.classes)
    before = Path("mask.png").read_bytes()
    with pytest.raises(SystemExit) as ended:
        main(["generate", "mask.png", "--steps", "1", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert Path("mask.png").read_bytes() == before
    assert sorted(path.name for path in Path().glob("*photograph*")) == []


def test_what_is_no_land_stays_transparent(place: Params) -> None:
    source = DATA / "masks/transparent_outside/rgb_nodata0.tif"
    with pytest.raises(SystemExit) as ended:
        main(["generate", str(source), "--output", "out.tif", "--steps", "1"])
    assert ended.value.code == 0
    with rasterio.open("out.tif") as file:
        assert file.colorinterp[3].name == "alpha"
        assert 0.4 < (file.read(4) > 0).mean() < 0.8  # 4 x 4 pixels of a mask that is 66 % land


def test_a_world_file_gives_the_scale(place: Params, capsys: pytest.CaptureFixture[str]) -> None:
    folder = DATA / "masks/georeference_beside"
    for name in ("world.png", "world.tif", "aux_all.tif"):
        with pytest.raises(SystemExit) as ended:
            main(["generate", str(folder / name), "--output", "out.tif", "--steps", "1"])
        assert ended.value.code == 0
        assert "out.tif: 4 x 4 pixels of 3.20 m generated" in capsys.readouterr().out


def test_the_part_of_a_prompt_that_is_not_used_is_said(
    place: Params, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (real,) = DATA.glob("flair/D004_2021/*/msk/*.tif")
    command = ["generate", str(real), "--output", "out.tif", "--steps", "1", "--prompt"]
    with pytest.raises(SystemExit):
        main([*command, "water " * 200 + "building"])
    message = capsys.readouterr().err
    assert "--prompt: only 77 tokens are used, not '" in message and "building'" in message
    with pytest.raises(SystemExit):
        main([*command, "water"])
    assert "tokens are used" not in capsys.readouterr().err


def test_the_commands_help_has_examples() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "aerialdreams.cli", "generate", "--help"],
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0
    assert "aerialdreams generate mask.tif --prompt" in shown.stdout
