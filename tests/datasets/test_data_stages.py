"""tiff-to-png, lut-masks, class-percentages and dataset, on patches in FLAIR's format."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from PIL import Image
from rasterio.transform import Affine

from aerialdreams.data.dataset import (
    count_patches,
    evenly_spaced_patches,
    load_evenly_spaced,
    load_split,
    read_patches,
)
from aerialdreams.data.images import read_image, read_mask
from aerialdreams.data.index import read_index
from aerialdreams.data.land_cover import class_pixel_counts
from aerialdreams.data.tiles import read_tile
from aerialdreams.errors import UserError
from aerialdreams.params import Params
from aerialdreams.util.files import dvc_md5
from aerialdreams.util.tables import write_table
from stages import captions, class_percentages, dataset, lut_masks, patch_index, tiff_to_png
from tests.conftest import DATA, changed, copy_raw

# The CRS of most of FLAIR's masks.
BROKEN_CRS = (
    'LOCAL_CS["RGF93 / Lambert-93",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
)
ZONES = {"000473": "D004_2021/Z6_NU", "034217": "D051_2019/Z15_UN", "084558": "D036_2020/Z17_UA"}


def test_png_pixels_are_the_first_three_bands(indexed: Params) -> None:
    assert tiff_to_png.main(indexed).startswith("3 PNG images")
    for number, zone in ZONES.items():
        bands = read_tile(DATA / f"flair/{zone}/img/IMG_{number}.tif").bands
        png = read_image(Path(f"data/images/IMG_{number}.png"))
        assert np.array_equal(png, bands[:3].transpose(1, 2, 0))


def test_output_bytes_do_not_depend_on_workers(indexed: Params) -> None:
    hashes = set()
    for workers in (1, 2):
        with_workers = changed(indexed, runtime={"workers": workers})
        tiff_to_png.main(with_workers)
        lut_masks.main(with_workers)
        hashes.add((dvc_md5(Path("data/images")), dvc_md5(Path("data/masks"))))
    assert len(hashes) == 1


def test_mask_pngs_and_their_percentages(indexed: Params) -> None:
    lut_masks.main(indexed)
    class_percentages.main(indexed)
    table = pq.read_table("data/class_percentages.parquet").to_pandas().set_index("patch_id")
    for number, zone in ZONES.items():
        ids = read_tile(DATA / f"flair/{zone}/msk/MSK_{number}.tif").bands[0]
        assert np.array_equal(read_mask(Path(f"data/masks/MSK_{number}.png")), ids)
        for class_id in range(1, 20):
            name = indexed.classes[class_id - 1].name
            assert table.loc[number, name] == (ids == class_id).sum() / 512**2
    assert table.sum(axis=1).tolist() == [1.0, 1.0, 1.0]


def test_percentages_of_published_masks(shared: Path, params: Params) -> None:
    """The shares that the predecessor published of its colour masks, to the last digit."""
    for number in ("066278", "067998", "076201"):
        check_percentages(shared, params, number)


def check_percentages(shared: Path, params: Params, number: str) -> None:
    colours = np.array(Image.open(shared / f"validation/MSK_{number}.png").convert("RGB"))
    ids = np.zeros(colours.shape[:2], np.uint8)
    for class_id, land_cover in enumerate(params.classes, start=1):
        ids[(colours == land_cover.rgb).all(-1)] = class_id
    text = (shared / f"validation/MSK_{number}_seg.json").read_text()
    published = json.loads(text)["class_repartition"]
    ours = dict(
        zip(
            (c.name for c in params.classes),
            (class_pixel_counts(ids, range(1, 20)) / ids.size).tolist(),
            strict=True,
        )
    )
    assert {name: share for name, share in ours.items() if share} == published


def as_tiles(shared: Path, raw: Path, params: Params) -> dict[str, dict[str, float]]:
    """Write the patches of ../shared/data/validation as tiles; returns their class shares."""
    published = {}
    for path in sorted((shared / "validation").glob("MSK_??????.json")):
        number, metadata = path.stem[4:], json.loads(path.read_text())
        rgb = np.array(Image.open(path.with_name(f"IMG_{number}.png")))
        colours = np.array(Image.open(path.with_suffix(".png")).convert("RGB"))
        ids = np.zeros((1, 512, 512), np.uint8)
        for class_id, land_cover in enumerate(params.classes, start=1):
            ids[0][(colours == land_cover.rgb).all(-1)] = class_id
        bands = np.concatenate([rgb.transpose(2, 0, 1), np.zeros((2, 512, 512), np.uint8)])
        for kind, pixels, crs in (("IMG", bands, "EPSG:2154"), ("MSK", ids, BROKEN_CRS)):
            tile = (
                raw / metadata["domain"] / metadata["zone"] / kind.lower() / f"{kind}_{number}.tif"
            )
            tile.parent.mkdir(parents=True, exist_ok=True)
            shape = {"count": len(pixels), "height": 512, "width": 512, "dtype": "uint8"}
            transform = Affine(0.2, 0, metadata["origin"][0], 0, -0.2, metadata["origin"][1])
            with rasterio.open(tile, "w", "GTiff", crs=crs, transform=transform, **shape) as file:
                file.write(pixels)
        shares = json.loads(path.with_name(f"{path.stem}_seg.json").read_text())
        published[number] = shares["class_repartition"]
    return published


def write_captions(ids: list[str]) -> None:
    """Write a caption for each patch, in two wordings."""
    rows = [
        {"patch_id": n, "caption": f"Été {n}.", "variants": [f"Été {n}.", f"{n}, été."]}
        for n in ids
    ]
    write_table(captions.CAPTIONS, rows, captions.SCHEMA)


def test_six_real_patches_through_to_the_dataset(
    workdir: Path, shared: Path, params: Params
) -> None:
    published = as_tiles(shared, copy_raw(shared, workdir), params)
    domains = {"validation_groups": ["D004_2021"], "test_groups": ["D064_2021", "D068_2021"]}
    six = changed(params, patch_index=domains)
    assert patch_index.main(six).endswith("6 patches (3 train, 1 validation, 2 test), 0 rejected")
    for stage in (tiff_to_png, lut_masks, class_percentages):
        stage.main(six)
    ids = read_index()["patch_id"].tolist()
    write_captions(ids)
    dataset.main(six)
    shares = pq.read_table("data/class_percentages.parquet").to_pandas().set_index("patch_id")
    for number, class_shares in published.items():
        ours = shares.loc[number]
        assert ours[ours > 0].to_dict() == class_shares
    seen = set()
    for shard in Path("data/dataset/data").iterdir():
        for row in pq.read_table(shard).to_pylist():
            number = row["patch_id"]
            image = np.array(Image.open(io.BytesIO(row["image"]["bytes"])))
            colours = np.array(Image.open(io.BytesIO(row["mask"]["bytes"])).convert("RGB"))
            if number in published:  # by the predecessor of this project
                folder = shared / "validation"
                assert np.array_equal(image, np.array(Image.open(folder / f"IMG_{number}.png")))
                theirs = Image.open(folder / f"MSK_{number}.png").convert("RGB")
                assert np.array_equal(colours, np.array(theirs))
            else:
                tile = read_tile(shared / f"flair/{ZONES[number]}/img/IMG_{number}.tif")
                assert np.array_equal(image, tile.bands[:3].transpose(1, 2, 0))
                assert tile.crs is not None and tile.crs.to_epsg() == 2154
            seen.add(number)
    assert seen == {*ZONES, *published}
    row = read_index().set_index("patch_id").loc["076201"]
    assert (row["origin_x"], row["origin_y"]) == (361475.2, 6628680.0)
    # The coordinates that the predecessor sent to Nominatim.
    assert (row["latitude"], row["longitude"]) == pytest.approx((46.6722, -1.4299), abs=1e-3)


@pytest.fixture
def built(indexed: Params) -> Params:
    """The dataset of the three real patches."""
    tiff_to_png.main(indexed)
    lut_masks.main(indexed)
    class_percentages.main(indexed)
    write_captions(sorted(ZONES))
    assert dataset.main(indexed).startswith("3 patches in 3 shards")
    return indexed


def test_the_dataset_loads_with_hugging_face(built: Params, workdir: Path) -> None:
    from datasets import load_dataset

    loaded = load_dataset(str(workdir / "data/dataset"), cache_dir=str(workdir / "cache"))
    assert {split: len(loaded[split]) for split in loaded} == {
        "train": 1,
        "validation": 1,
        "test": 1,
    }
    row = loaded["validation"][0]
    assert row["caption"] == "Été 000473."
    assert np.array_equal(np.array(row["mask"]), read_mask(Path("data/masks/MSK_000473.png")))
    assert np.array_equal(np.array(row["image"]), read_image(Path("data/images/IMG_000473.png")))
    assert (row["origin_x"], row["group"]) == (961436.8, "D004_2021")


def test_the_dataset_carries_the_files_and_the_credits(built: Params) -> None:
    shard = "data/dataset/data/test-00000-of-00001.parquet"
    image = pq.read_table(shard).to_pylist()[0]["image"]["bytes"]
    assert image == Path("data/images/IMG_034217.png").read_bytes()
    assert Image.open(io.BytesIO(image)).size == (512, 512)
    card = Path("data/dataset/README.md").read_text()
    assert "IGN, Licence Ouverte 2.0" in card
    assert "OpenStreetMap contributors, ODbL 1.0" in card


def test_reading_a_split_at_another_size(built: Params) -> None:
    split = load_split("train", 64)
    assert split.images.shape == (1, 64, 64, 3)
    full = read_image(Path("data/images/IMG_084558.png")).astype(float)
    blocks = full.reshape(64, 8, 64, 8, 3).mean((1, 3))
    assert np.abs(split.images[0] - blocks).max() <= 1  # area average, rounded
    assert load_evenly_spaced("train", 5, 64).patch_ids == ["084558"]


def test_a_damaged_shard_is_named(built: Params) -> None:
    shard = Path("data/dataset/data/test-00000-of-00001.parquet")
    shard.write_bytes(shard.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"test-00000-of-00001\.parquet: cannot be read"):
        load_split("test", 64)


def test_rows_are_read_by_their_number(workdir: Path) -> None:
    """Also those of several shards and row groups, and where whole batches are left out."""
    png = io.BytesIO()
    Image.new("L", (4, 4), 1).save(png, "PNG")
    picture = {"bytes": png.getvalue(), "path": None}
    for part, first in enumerate((0, 70)):
        rows: list[dict[str, object]] = [
            {"patch_id": f"{number:06d}", "image": picture, "mask": picture, "caption": "a"}
            | {"captions": ["a"], "group": "D", "zone": "Z", "crs": None, "origin_x": None}
            | {"origin_y": None, "extent": None, "pixel_size": 0.2}
            for number in range(first, first + 70)
        ]
        path = Path(f"dataset/data/train-{part:05d}-of-00002.parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=30)
    folder = Path("dataset")
    assert count_patches("train", folder) == 140
    for numbers in ([0], [139], [50, 69, 70, 71], list(range(0, 140, 17)), list(range(140)), []):
        read = [int(patch.patch_id) for patch in read_patches("train", numbers, folder)]
        assert read == numbers
    assert [p.mask.shape for p in evenly_spaced_patches("train", 2, folder)] == [(4, 4)] * 2
