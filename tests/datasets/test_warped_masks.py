"""Masks on other grids than north-up squares: the same ids at the same places on the ground."""

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.warp import calculate_default_transform, reproject, transform

from aerialdreams.data.georeference import GeoReference
from aerialdreams.data.grids import on_square_grid
from aerialdreams.data.land_cover import IGNORED
from aerialdreams.data.mask_files import UserMask

LAMBERT = CRS.from_epsg(2154)
NORTH_UP = Affine(1, 0, 700_000, 0, -1, 6_600_000)


@pytest.fixture
def ids() -> NDArray[np.uint8]:
    """Blocks of 8 x 8 m of random classes."""
    blocks = np.random.default_rng(0).integers(1, 20, (10, 15), np.uint8)
    return np.kron(blocks, np.ones((8, 8), np.uint8))


def mask_of(ids: NDArray[np.uint8], grid: Affine, crs: CRS | None = LAMBERT) -> UserMask:
    return UserMask(ids, ids != IGNORED, GeoReference(grid, crs), 0.0, ())


@pytest.mark.parametrize(
    ("turned", "grid"),
    [
        (lambda ids: ids[::-1], Affine(1, 0, 700_000, 0, 1, 6_599_920)),  # south-up
        (lambda ids: ids[:, ::-1], Affine(-1, 0, 700_120, 0, -1, 6_600_000)),  # mirrored
        (lambda ids: ids.T, Affine(0, 1, 700_000, -1, 0, 6_600_000)),  # columns run south
        (lambda ids: ids[:, ::2], Affine(2, 0, 700_000, 0, -1, 6_600_000)),  # no squares
    ],
)
@pytest.mark.parametrize("crs", [LAMBERT, None])
def test_turned_masks_come_back_exactly(
    ids: NDArray[np.uint8], turned: object, grid: Affine, crs: CRS | None
) -> None:
    mask = mask_of(np.ascontiguousarray(turned(ids)), grid, crs)  # type: ignore[operator]
    result, note = on_square_grid(mask, 1.0, 1.0)
    assert result.georeference == GeoReference(NORTH_UP, crs)
    assert np.array_equal(result.class_ids, ids) and result.valid.all()
    assert "was warped" in note


def test_a_mask_at_an_angle(ids: NDArray[np.uint8]) -> None:
    """What the turned raster does not cover has no class; each block's middle has its own."""
    grid = Affine.translation(700_000, 6_600_000) @ Affine.rotation(30) @ Affine.scale(1, -1)
    result, _ = on_square_grid(mask_of(ids, grid), 1.0, 0.5)
    assert result.georeference and 0.3 < (~result.valid).mean() < 0.7
    assert (result.class_ids[~result.valid] == IGNORED).all()
    for row in range(4, 80, 8):
        for column in range(4, 120, 8):
            x, y = ~result.georeference.transform @ (grid @ (column, row))
            assert result.class_ids[int(y), int(x)] == ids[row, column]


@pytest.mark.parametrize("code", [4326, 3395])
def test_degrees_and_stretched_projections(ids: NDArray[np.uint8], code: int) -> None:
    """By way of UTM, blocks are where they were, to a metre."""
    height, width = ids.shape
    other = CRS.from_epsg(code)
    bounds = (700_000, 6_599_920, 700_120, 6_600_000)
    grid, columns, rows = calculate_default_transform(LAMBERT, other, width, height, *bounds)
    if code == 3395:  # squares there, but of another size along each axis in the file
        grid, columns = grid @ Affine.scale(0.5, 1), columns * 2
    warped = np.full((rows, columns), IGNORED, np.uint8)
    reproject(
        ids, warped, src_transform=NORTH_UP, src_crs=LAMBERT, dst_transform=grid, dst_crs=other,
        src_nodata=IGNORED, dst_nodata=IGNORED, resampling=Resampling.nearest,
    )  # fmt: skip
    result, note = on_square_grid(mask_of(warped, grid, other), 1.0, 0.5)
    assert "EPSG:32631" in note and result.georeference
    for row in range(4, 80, 8):
        for column in range(4, 120, 8):
            x, y = NORTH_UP @ (column, row)
            (x,), (y,) = transform(LAMBERT, result.georeference.crs, [x], [y])
            x, y = ~result.georeference.transform @ (x, y)
            assert result.class_ids[int(y), int(x)] == ids[row, column]
