"""Tiles and PNG files: pixels, ids and colours are kept; damaged files are named."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from aerialdreams.data.images import read_image, read_mask, resize_mask, write_mask
from aerialdreams.data.land_cover import class_pixel_counts, mask_to_rgb
from aerialdreams.data.tiles import read_tile
from aerialdreams.errors import UserError
from aerialdreams.params import Params
from tests.conftest import DATA


@pytest.mark.parametrize("invented", [True, False])
def test_a_tile(invented: bool, request: pytest.FixtureRequest) -> None:
    folder = DATA if invented else request.getfixturevalue("shared")
    tile = read_tile(folder / "flair/D004_2021/Z6_NU/img/IMG_000473.tif")
    assert tile.bands.shape == (5, 512, 512)
    assert tile.crs is not None and tile.crs.to_epsg() == 2154
    assert tile.origin == pytest.approx((961436.8, 6329262.4), abs=1e-6)
    assert tile.pixel_size == pytest.approx((0.2, 0.2))
    # Most masks have a local CRS without a code.
    crs = read_tile(folder / "flair/D004_2021/Z6_NU/msk/MSK_000473.tif").crs
    assert crs is not None and crs.to_epsg() is None


def test_reading_a_tile_leaves_gdal_as_it_is() -> None:
    """Tiles are opened without a search for side files; other rasters still have theirs."""
    read_tile(DATA / "flair/D004_2021/Z6_NU/img/IMG_000473.tif")
    with rasterio.open(DATA / "masks/georeference_beside/world.png") as file:
        assert file.transform.a == 0.2


def test_a_cut_tile_is_named(tmp_path: Path) -> None:
    whole = (DATA / "flair/D004_2021/Z6_NU/img/IMG_000473.tif").read_bytes()
    cut = tmp_path / "IMG_000473.tif"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"IMG_000473\.tif: cannot be read .*fetch it again"):
        read_tile(cut)


def test_a_mask_keeps_ids_and_shows_colours(tmp_path: Path, params: Params) -> None:
    ids = read_tile(DATA / "flair/D036_2020/Z17_UA/msk/MSK_084558.tif").bands[0]
    path = tmp_path / "MSK_084558.png"
    write_mask(path, ids, params.classes)
    assert np.array_equal(read_mask(path), ids)
    with Image.open(path) as image:
        assert np.array_equal(np.array(image.convert("RGB")), mask_to_rgb(ids, params.classes))
    assert mask_to_rgb(np.array([[1, 13]], np.uint8), params.classes).tolist() == [
        [[0xDB, 0x0E, 0x9A], [0x3D, 0xE6, 0xEB]]
    ]


def test_a_smaller_mask_has_no_new_id() -> None:
    ids = read_tile(DATA / "flair/D036_2020/Z17_UA/msk/MSK_084558.tif").bands[0]
    small = resize_mask(ids, 128)
    assert small.shape == (128, 128)
    # Nearest neighbour: each pixel is one of the sixteen that it stands for.
    blocks = ids.reshape(128, 4, 128, 4).transpose(0, 2, 1, 3).reshape(128, 128, 16)
    assert (blocks == small[..., None]).any(-1).all()


def test_a_mask_without_palette_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((8, 8), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="is a L image, not P"):
        read_mask(tmp_path / "a.png")
    with pytest.raises(UserError, match="not found"):
        read_image(tmp_path / "b.png")


def test_values_that_are_no_ids_are_not_counted() -> None:
    mask = np.array([[0, 1, 1, 19], [20, 255, 1, 2]], np.uint8)
    assert class_pixel_counts(mask, [1, 2, 19]).tolist() == [3, 1, 1]
