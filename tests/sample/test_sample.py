"""The sample data: FLAIR's format, continuous zones, the same bytes in every run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio

from aerialdreams.data.tiles import read_tile
from aerialdreams.params import Params
from aerialdreams.util.files import dvc_md5
from stages import osm_metadata, patch_index, raw_patches
from tests.conftest import changed

ZONES = {"D038_2021": ["Z1_UA"], "D014_2020": ["Z1_HF"], "D022_2021": ["Z1_NU"]}


@pytest.fixture
def small(params: Params) -> Params:
    return with_sample(params, zones=ZONES, zone_side=2)


def with_sample(params: Params, **values: Any) -> Params:
    """Params with changed values of raw_patches.sample."""
    sample = params.raw_patches.sample.model_dump() | values
    return changed(params, raw_patches={"sample": sample})


@pytest.fixture
def world(workdir: Path, small: Params) -> Path:
    summary = raw_patches.main(small)
    assert summary == "12 patches in 3 zones of 3 domains drawn"
    return workdir / "data/raw"


def test_tiles_have_the_format_of_real_ones(world: Path, shared: Path) -> None:
    real = shared / "flair/D004_2021/Z6_NU"
    for kind, sample in (("img/IMG", "000001"), ("msk/MSK", "000001")):
        with (
            rasterio.open(f"{real}/{kind}_000473.tif") as real_tile,
            rasterio.open(f"{world}/D038_2021/Z1_UA/{kind}_{sample}.tif") as sample_tile,
        ):
            for field in ("driver", "dtype", "nodata", "width", "height", "count"):
                assert sample_tile.profile[field] == real_tile.profile[field]
            assert sample_tile.crs.to_wkt() == real_tile.crs.to_wkt()  # for masks, a damaged CRS
            assert sample_tile.res == pytest.approx(real_tile.res)
    metadata = json.loads((world / "flair-1_metadata_aerial.json").read_text())
    real_keys = set().union(
        *json.loads((shared / "flair/flair-1_metadata_aerial.json").read_text()).values()
    )
    assert {key for entry in metadata.values() for key in entry} == real_keys


def test_adjacent_patches_are_continuous(world: Path) -> None:
    zone = world / "D038_2021/Z1_UA"
    west, east, south = (read_tile(zone / f"img/IMG_00000{n}.tif") for n in (1, 2, 3))
    assert east.origin == pytest.approx((west.origin[0] + 102.4, west.origin[1]))
    assert south.origin == pytest.approx((west.origin[0], west.origin[1] - 102.4))
    image = west.bands[:3].astype(int)
    inside = np.abs(image[:, :, -1] - image[:, :, -2]).mean()
    across = np.abs(image[:, :, -1] - east.bands[:3, :, 0]).mean()
    assert across < 2 * inside


def test_masks_are_valid_and_consist_of_cells(world: Path) -> None:
    class_ids = set()
    for path in world.rglob("MSK_*.tif"):
        mask = read_tile(path).bands[0]
        assert (mask[::2, ::2] == mask[1::2, 1::2]).all()
        class_ids |= set(np.unique(mask).tolist())
    assert class_ids <= set(range(1, 20))
    assert len(class_ids) >= 12


def test_infrared_and_heights_match_the_classes(world: Path) -> None:
    infrared: dict[int, list[float]] = {}
    height: dict[int, list[float]] = {}
    for path in world.rglob("MSK_*.tif"):
        mask = read_tile(path).bands[0]
        image = read_tile(Path(str(path).replace("msk", "img").replace("MSK", "IMG"))).bands
        for class_id in np.unique(mask).tolist():
            infrared.setdefault(class_id, []).append(float(image[3][mask == class_id].mean()))
            height.setdefault(class_id, []).append(float(image[4][mask == class_id].mean()) / 5)
    assert np.mean(infrared[7]) > 1.4 * np.mean(infrared[3])  # deciduous, impervious surface
    assert 4 < np.mean(height[1]) < 7.5  # buildings, metres
    assert np.mean(height[3]) < 0.1


@pytest.mark.slow
def test_same_bytes_for_any_number_of_workers(world: Path, small: Params) -> None:
    before = dvc_md5(world)
    raw_patches.main(changed(small, runtime={"workers": 1}))
    assert dvc_md5(world) == before
    raw_patches.main(with_sample(small, seed=1))
    assert dvc_md5(world) != before


def test_areas_are_nested_and_a_border_crosses_a_zone(world: Path, small: Params) -> None:
    patch_index.main(small)
    osm_metadata.main(small)
    index = pd.read_parquet("data/patches.parquet")
    metadata = index.merge(pd.read_parquet("data/osm_metadata.parquet"), on="patch_id")
    assert metadata[["country", "region", "departement", "commune", "place"]].notna().all().all()
    assert (metadata["departement_code"] == metadata["group"].str[2:4]).all()
    assert (metadata["insee"].str[:2] == metadata["departement_code"]).all()
    zones = metadata.groupby(["group", "zone"])
    assert (zones["commune"].nunique() == 2).all()  # each domain's first zone lies on a border
    # Two départements form a region.
    assert metadata.groupby("departement")["region"].nunique().eq(1).all()
    assert metadata["region"].nunique() == 2


def test_some_centroids_are_shifted(world: Path) -> None:
    metadata = json.loads((world / "flair-1_metadata_aerial.json").read_text())
    shifts = []
    for path in sorted(world.rglob("IMG_*.tif")):
        tile, entry = read_tile(path), metadata[path.stem]
        shifts.append(abs(entry["patch_centroid_x"] - tile.origin[0] - 51.2))
    assert 0 < sum(value > 0.1 for value in shifts) < len(shifts)
    assert max(shifts) <= 24
