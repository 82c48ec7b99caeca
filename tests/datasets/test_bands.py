"""Near infrared and height, from tiles to the dataset and to GeoTIFFs."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from datasets import load_dataset
from pydantic import ValidationError
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from aerialdreams.data.dataset import load_split, read_patches
from aerialdreams.data.georeference import GeoReference
from aerialdreams.data.images import read_bands, read_image, resize_image, write_bands
from aerialdreams.data.rasters import write_geotiff, write_vrt
from aerialdreams.data.spec import FurtherBands
from aerialdreams.data.tiles import Tile, read_tile, tile_band
from aerialdreams.errors import UserError
from aerialdreams.params import Params
from stages import captions, class_percentages, dataset, lut_masks, osm_metadata, tiff_to_png
from tests.conftest import DATA, changed

BANDS = ["red", "green", "blue", "near_infrared", "height"]
FURTHER = FurtherBands(("near_infrared", "height"), (0, 51))
TILE = DATA / "flair/D004_2021/Z6_NU/img/IMG_000473.tif"
PLACE = GeoReference(Affine(0.8, 0, 700000, 0, -0.8, 6800000), CRS.from_epsg(2154))


def test_the_dataset_has_all_bands_of_the_tiles(indexed: Params) -> None:
    params = changed(indexed, bands=BANDS, osm_metadata={"backend": "none"})
    assert tiff_to_png.main(params).startswith("3 PNG images of 5 bands")
    for stage in (lut_masks, class_percentages, osm_metadata, captions, dataset):
        stage.main(params)
    tile = read_tile(TILE).bands.transpose(1, 2, 0)
    (patch,) = read_patches("validation")
    assert np.array_equal(patch.bands, tile)
    assert np.array_equal(patch.image, tile[..., :3])
    rows = load_dataset("data/dataset", split="validation")
    assert np.array_equal(np.array(rows[0]["near_infrared"]), tile[..., 3])
    assert np.array_equal(np.array(rows[0]["height"]), tile[..., 4])
    small = load_split("validation", 128).images[0]
    means = tile.reshape(128, 4, 128, 4, 5).mean((1, 3))
    assert np.abs(small - means).max() <= 1  # Pillow rounds rows, then columns
    card = Path("data/dataset/README.md").read_text()
    assert "| `height` | above ground, as grey PNG: 0 is 0 m, 255 is 51 m |" in card


def test_without_further_bands_there_is_nothing_of_them(indexed: Params) -> None:
    tiff_to_png.main(indexed)
    assert len(list(Path("data/images").iterdir())) == 3


def test_heights_of_any_unit_become_metres(params: Params) -> None:
    bands = np.zeros((5, 1, 4), np.float32)
    bands[4, 0] = -1, 10, 40, np.nan
    tile = Tile(bands, (0, 0), (1, 1), 0, None, None)
    spec = params.dataset_spec.model_copy(update={"height_unit": 1.0, "height_metres": (0, 20)})
    assert tile_band(tile, "height", spec).tolist() == [[0, 128, 255, 0]]
    feet = spec.model_copy(update={"height_unit": 0.3048})
    assert tile_band(tile, "height", feet).tolist() == [[0, 39, 155, 0]]


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        (["red", "green"], r"bands: is \['red', 'green'\]; must be \[red, green, blue\]"),
        (["red", "green", "blue", "height", "near_infrared"], "in this order"),
        (["red", "green", "blue", "thermal"], "to which near_infrared"),
    ],
)
def test_bands_that_are_refused(params: Params, bands: list[str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        changed(params, bands=bands)


def test_a_band_that_the_dataset_lacks_is_refused(params: Params) -> None:
    spec = params.dataset_spec.model_dump()
    spec["bands"]["height"] = None
    with pytest.raises(ValidationError, match=r"bands: has height, whose number dataset_spec"):
        changed(params, dataset_spec=spec, bands=BANDS)


def test_images_of_five_bands_are_pngs_beside_each_other(workdir: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 5), np.uint8)
    write_bands(workdir / "IMG_1.png", image, FURTHER.names)
    assert np.array_equal(read_bands(workdir / "IMG_1.png", FURTHER.names), image)
    assert np.array_equal(read_image(workdir / "IMG_1.png"), image[..., :3])
    assert np.array_equal(read_bands(workdir / "IMG_1.png", ["height"])[..., 3], image[..., 4])
    assert np.array_equal(resize_image(image, 16)[..., :3], resize_image(image[..., :3], 16))
    (workdir / "IMG_1_height.png").unlink()
    with pytest.raises(UserError, match=r"IMG_1_height\.png: not found; run `dvc repro`"):
        read_bands(workdir / "IMG_1.png", FURTHER.names)


def test_a_geotiff_names_its_bands(workdir: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 6), np.uint8)
    write_geotiff(workdir / "a.tif", image, PLACE, {"SYNTHETIC": "YES"}, further=FURTHER)
    with rasterio.open(workdir / "a.tif") as file:
        assert file.descriptions == (*BANDS, "alpha")
        assert file.colorinterp == (
            *(ColorInterp.red, ColorInterp.green, ColorInterp.blue),
            *(ColorInterp.nir, ColorInterp.undefined, ColorInterp.alpha),
        )
        assert file.units[4] == "m"
        assert (file.scales[4], file.offsets[4]) == (0.2, 0)
        assert np.array_equal(file.read(), image.transpose(2, 0, 1))
        assert file.transform == PLACE.transform


def test_a_vrt_shows_colour_infrared(workdir: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (64, 64, 5), np.uint8) for _ in range(2)]
    for number, image in enumerate(images):
        east = PLACE._replace(transform=PLACE.transform @ Affine.translation(64 * number, 0))
        write_geotiff(workdir / f"{number}.tif", image, east, {}, further=FURTHER)
    paths = [workdir / "0.tif", workdir / "1.tif"]
    write_vrt(workdir / "all.vrt", paths)
    write_vrt(workdir / "infrared.vrt", paths, ("near_infrared", "red", "green"))
    both = np.concatenate(images, 1).transpose(2, 0, 1)
    with rasterio.open(workdir / "all.vrt") as file:
        assert np.array_equal(file.read(), both)
        assert file.descriptions == tuple(BANDS)
        assert (file.units[4], file.scales[4]) == ("m", 0.2)
    with rasterio.open(workdir / "infrared.vrt") as file:
        assert np.array_equal(file.read(), both[[3, 0, 1]])
        assert file.colorinterp == (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
