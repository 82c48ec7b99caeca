"""patch-index: valid patches are indexed, bad ones rejected with the reason."""

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS

from aerialdreams.data.index import read_index
from aerialdreams.errors import UserError
from aerialdreams.params import Params
from stages import patch_index
from tests.conftest import changed, copy_raw

IMAGE = "D051_2019/Z15_UN/img/IMG_034217.tif"
MASK = "D051_2019/Z15_UN/msk/MSK_034217.tif"


@pytest.fixture
def real(params: Params) -> Params:
    """Params for the three patches: one in each split, and half of them may be bad."""
    domains = {"validation_groups": ["D004_2021"], "test_groups": ["D051_2019"]}
    return changed(params, patch_index=domains | {"max_rejected": 0.5})


def rejected() -> list[dict[str, str]]:
    with Path("data/rejected.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def add_patch(raw: Path, number: str) -> tuple[Path, Path]:
    """Copy a valid patch under another number."""
    image, mask = raw / IMAGE, raw / MASK
    new = image.with_name(f"IMG_{number}.tif"), mask.with_name(f"MSK_{number}.tif")
    shutil.copy(image, new[0])
    shutil.copy(mask, new[1])
    return new


def repaint(path: Path, value: int) -> None:
    with rasterio.open(path, "r+") as file:
        pixels = file.read()
        pixels[0, 10, 10] = value
        file.write(pixels)


def deny_access(path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root can read all files")
    path.chmod(0)


def widen(path: Path) -> None:
    """The same tile in 16 bits."""
    with rasterio.open(path) as file:
        pixels, profile = file.read(), file.profile
    with rasterio.open(path, "w", **(profile | {"dtype": "uint16"})) as file:
        file.write(pixels.astype(np.uint16))


def test_patches_in_flairs_format(raw: Path, real: Params) -> None:
    assert patch_index.main(real) == "3 patches (1 train, 1 validation, 1 test), 0 rejected"
    index = read_index().set_index("patch_id")
    row = index.loc["000473"]
    assert (row["group"], row["zone"], row["split"]) == ("D004_2021", "Z6_NU", "validation")
    # From the transform, rounded; the metadata's centroid is another place.
    assert (row["origin_x"], row["origin_y"]) == (961436.8, 6329262.4)
    # By the formulas of the Lambert conformal conic projection, worked out apart from PROJ.
    assert row["longitude"] == pytest.approx(6.2618849, abs=1e-6)
    assert row["latitude"] == pytest.approx(44.0132870, abs=1e-6)
    assert (row["date"], row["camera"]) == ("2021-07-01", "CAMERA#000")
    assert index["time"].isna().sum() == 2  # the metadata lack it, as IGN's do
    assert rejected() == []


def test_real_patches(workdir: Path, shared: Path, real: Params) -> None:
    copy_raw(shared, workdir)
    assert patch_index.main(real) == "3 patches (1 train, 1 validation, 1 test), 0 rejected"
    index = read_index().set_index("patch_id")
    row = index.loc["000473"]
    assert (row["group"], row["zone"], row["split"]) == ("D004_2021", "Z6_NU", "validation")
    # IGN's transform, rounded; the metadata's centroid is another place.
    assert (row["origin_x"], row["origin_y"]) == (961436.8, 6329262.4)
    # By the formulas of the Lambert conformal conic projection, worked out apart from PROJ.
    assert row["longitude"] == pytest.approx(6.2618849, abs=1e-6)
    assert row["latitude"] == pytest.approx(44.0132870, abs=1e-6)
    assert (row["date"], row["camera"]) == ("2021-07-09", "UCE-M3-f120-s06")
    assert index["time"].isna().any()  # IGN's metadata lack it here
    assert rejected() == []


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda image, mask: image.write_bytes(image.read_bytes()[:30_000]), "cannot be read"),
        (lambda image, mask: image.write_bytes(b""), "cannot be read"),
        (lambda image, mask: (mask.unlink(), mask.symlink_to("nowhere")), "cannot be read"),
        (lambda image, mask: deny_access(mask), "cannot be read"),
        (lambda image, mask: widen(image), "type uint16, not uint8"),
        (lambda image, mask: repaint(mask, 0), "class id 0, not 1 to 19"),
        (lambda image, mask: repaint(mask, 20), "class id 20, not 1 to 19"),
        (lambda image, mask: mask.unlink(), "no mask with this number"),
        (lambda image, mask: image.unlink(), "no image with this number"),
        (lambda image, mask: shutil.copy(mask, image), "shape (1, 512, 512), not (5, 512, 512)"),
    ],
    ids=[
        "truncated",
        "empty",
        "dangling link",
        "forbidden",
        "uint16",
        "id 0",
        "id 20",
        "no mask",
        "no image",
        "mask as image",
    ],
)
def test_a_bad_patch_is_rejected(raw: Path, real: Params, harm, reason: str) -> None:  # type: ignore[no-untyped-def]
    harm(*add_patch(raw, "999999"))
    assert patch_index.main(real).endswith("1 rejected")
    assert read_index()["patch_id"].tolist() == ["000473", "034217", "084558"]
    (row,) = rejected()
    assert row["patch_id"] == "999999"
    assert "999999.tif" in row["file"]
    assert reason in row["reason"]


def test_a_shifted_mask_is_rejected(raw: Path, real: Params) -> None:
    _, mask = add_patch(raw, "999999")
    with rasterio.open(mask, "r+") as file:
        file.transform = file.transform @ rasterio.Affine.translation(5, 0)
    patch_index.main(real)
    assert "its image's is at" in rejected()[0]["reason"]


def test_too_many_bad_patches_stop(raw: Path, real: Params) -> None:
    repaint(add_patch(raw, "999999")[1], 0)
    strict = changed(real, patch_index={"max_rejected": 0.1})
    with pytest.raises(
        UserError, match=r"1 of 4 patches are bad, more than patch_index\.max_rejec"
    ):
        patch_index.main(strict)
    assert not Path("data/patches.parquet").exists()
    assert rejected()[0]["patch_id"] == "999999"  # the list is complete even so


def test_a_duplicate_number_is_rejected(raw: Path, real: Params) -> None:
    other = raw / "D051_2019/Z16_UN/img"
    other.mkdir(parents=True)
    shutil.copy(raw / IMAGE, other)
    relaxed = changed(real, patch_index={"test_groups": ["D036_2020"]})
    with pytest.raises(UserError, match="no valid patch for the train split"):
        patch_index.main(relaxed)
    assert "a second image with this number" in rejected()[0]["reason"]


def test_missing_or_broken_metadata(raw: Path, real: Params) -> None:
    path = raw / "flair-1_metadata_aerial.json"
    path.write_text("{")
    with pytest.raises(UserError, match=r"flair-1_metadata_aerial\.json: not valid JSON"):
        patch_index.main(real)
    path.unlink()
    summary = patch_index.main(real)
    assert summary.endswith("flair-1_metadata_aerial.json not found, so dates are unknown")
    assert read_index()["date"].isna().all()


def test_an_empty_folder(workdir: Path, real: Params) -> None:
    (workdir / "data/raw").mkdir(parents=True)
    (workdir / "data/raw/flair-1_metadata_aerial.json").write_text("{}")
    with pytest.raises(UserError, match=r"data/raw: has no IMG_nnnnnn\.tif"):
        patch_index.main(real)


def test_an_image_of_another_projection_is_a_flaw(raw: Path, params: Params) -> None:
    tile = patch_index.read_tile(raw / IMAGE)
    assert patch_index.image_flaw(tile, params.dataset_spec) is None
    assert (
        patch_index.image_flaw(tile._replace(crs=CRS.from_epsg(32631)), params.dataset_spec)
        == "EPSG:32631, not EPSG:2154"
    )
    assert "pixels of" in str(
        patch_index.image_flaw(tile._replace(pixel_size=(0.5, 0.5)), params.dataset_spec)
    )
    wide = tile._replace(bands=tile.bands.astype(np.uint16))
    assert "uint16" in str(patch_index.image_flaw(wide, params.dataset_spec))


# Lambert II on NTF, spelt out and without a code.
LAMBERT_2 = CRS.from_wkt(
    'PROJCS["own",GEOGCS["NTF (Paris)",DATUM["NTF",SPHEROID["Clarke 1880",6378249.2,293.46602]],'
    'PRIMEM["Paris",2.33722917],UNIT["grad",0.015707963]],PROJECTION["Lambert_Conformal_Conic_1SP"],'
    'PARAMETER["latitude_of_origin",52],PARAMETER["central_meridian",0],'
    'PARAMETER["scale_factor",0.99987742],PARAMETER["false_easting",600000],'
    'PARAMETER["false_northing",2200000],UNIT["metre",1]]'
)
RENAMED = CRS.from_wkt(CRS.from_epsg(2154).to_wkt().replace('["RGF93 v1 / Lambert-93"', '["x"'))
LOCAL = CRS.from_wkt(
    'LOCAL_CS["RGF93 v1 / Lambert-93",UNIT["metre",1,AUTHORITY["EPSG","9001"]],'
    'AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
)


@pytest.mark.parametrize(
    ("crs", "flaw"),
    [
        (None, None),
        (LOCAL, None),
        (CRS.from_epsg(5698), None),  # Lambert-93 with height
        (CRS.from_epsg(9794), None),  # Lambert-93 v2b
        (
            CRS.from_wkt(CRS.from_epsg(2154).to_wkt().replace('["RGF93 v1 / Lambert-93"', '["x"')),
            None,
        ),
        (LAMBERT_2, "CRS 'own', not EPSG:2154"),
        (CRS.from_epsg(3857), "EPSG:3857, not EPSG:2154"),
        (CRS.from_epsg(4326), "EPSG:4326, not EPSG:2154"),
        (CRS.from_epsg(27572), "EPSG:27572, not EPSG:2154"),
    ],
)
def test_crs_of_images(raw: Path, params: Params, crs: CRS | None, flaw: str | None) -> None:
    tile = patch_index.read_tile(raw / IMAGE)
    assert patch_index.image_flaw(tile._replace(crs=crs), params.dataset_spec) == flaw


def rewrite(path: Path, **profile: object) -> None:
    """Write a tile again with another profile."""
    with rasterio.open(path) as file:
        pixels, old = file.read(), file.profile
    with rasterio.open(path, "w", **(old | profile)) as file:
        file.write(pixels)


def test_rotated_and_rescaled_tiles_are_rejected(raw: Path, real: Params) -> None:
    with rasterio.open(raw / IMAGE) as file:
        transform = file.transform
    turned = add_patch(raw, "999997")
    rewrite(turned[0], transform=transform @ rasterio.Affine.rotation(1))
    coarse = add_patch(raw, "999998")
    half = rasterio.Affine(0.4, 0, transform.c, 0, -0.4, transform.f)
    rewrite(coarse[1], transform=half)
    noisy = add_patch(raw, "999999")
    rewrite(noisy[0], transform=rasterio.Affine(0.2, 1e-9, transform.c, 1e-9, -0.2, transform.f))
    patch_index.main(real)
    reasons = {row["patch_id"]: row["reason"] for row in rejected()}
    assert reasons == {
        "999997": "rotated against its CRS",
        "999998": "pixels of 0.4 x 0.4 m, its image's are of 0.2 m",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5", "must be a JSON object keyed by image name"),
        ('{"IMG_034217": null}', "IMG_034217: is None, not an object"),
        ('{"IMG_034217": {"date": 20210703}}', "IMG_034217: date is 20210703, not text"),
        ('{"IMG_034217": {"camera": ["a", 1]}}', r"IMG_034217: camera is \['a', 1\], not text"),
        ('{"IMG_034217": {"date": "2021-13-01"}}', "IMG_034217: date is '2021-13-01', not a day"),
        ('{"IMG_034217": {"date": "2021-00-10"}}', "IMG_034217: date is '2021-00-10', not a day"),
    ],
)
def test_odd_metadata_is_one_message(raw: Path, real: Params, text: str, message: str) -> None:
    (raw / "flair-1_metadata_aerial.json").write_text(text)
    with pytest.raises(UserError, match=rf"flair-1_metadata_aerial\.json: {message}"):
        patch_index.main(real)


def test_metadata_with_a_byte_order_mark_is_read(raw: Path, real: Params) -> None:
    path = raw / "flair-1_metadata_aerial.json"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    patch_index.main(real)
    assert read_index()["date"].notna().all()
