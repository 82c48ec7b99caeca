"""Source pairs: rasters of any size, format and place become patches with the same pixels."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning

from aerialdreams.data.index import read_index
from aerialdreams.data.land_cover import IGNORED
from aerialdreams.data.spec import DatasetSpec
from aerialdreams.errors import UserError
from aerialdreams.params import Params
from stages import patch_index, raw_patches
from tests.conftest import changed

SIZE = 64
HEIGHT, WIDTH = 150, 203
UTM = CRS.from_epsg(32637)
LAEA = CRS.from_epsg(3035)
CUSTOM = CRS.from_proj4("+proj=tmerc +lat_0=24 +lon_0=55 +k=1 +x_0=5000 +y_0=5000 +ellps=GRS80")
NORTH_WEST = Affine(0.5, 0, 500_000.3, 0, -0.5, 4_100_000.1)
FAR_EAST = NORTH_WEST @ Affine.translation(999, 0)
CLASSES = [
    {"name": "ground", "colour": "#00ff00", "values": [0]},
    {"name": "road", "colour": "#ff0000", "values": [3, 4]},
    {"name": "water", "colour": "#0000ff", "values": [200]},
]
VALUES = np.array([0, 3, 4, 200])


@pytest.fixture
def pairs(params: Params, workdir: Path) -> Params:
    """Params of a dataset of three classes in data/external."""
    spec = params.dataset_spec.model_dump(mode="json") | {
        "classes": CLASSES,
        "ignored": [255, "#808080"],
        "patch_size": SIZE,
        "pixel_size": None,
        "crs": None,
        "bands": {"red": 1, "green": 2, "blue": 3},
        "published_percentages": [],
    }
    source = {
        "source": "pairs",
        "folder": "rasters",
        "pairs": params.raw_patches.pairs.model_copy(update={"least_valid": 0.0}),
    }
    everything = changed(
        params, raw_patches=source, osm_metadata={"backend": "none"}, runtime={"workers": 1}
    )
    return everything.model_copy(update={"dataset_spec": DatasetSpec.model_validate(spec)})


def with_spec(params: Params, **values: Any) -> Params:
    return params.model_copy(update={"dataset_spec": params.dataset_spec.model_copy(update=values)})


def with_pairs(params: Params, **values: Any) -> Params:
    options = params.raw_patches.pairs.model_copy(update=values)
    return changed(params, raw_patches={"pairs": options})


def draw(seed: int = 0, bands: int = 3) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An image, and values of CLASSES in blocks of 7 pixels."""
    rng = np.random.default_rng(seed)
    image = rng.integers(1, 255, (bands, HEIGHT, WIDTH), np.uint8)
    blocks = rng.choice(VALUES, (HEIGHT // 7 + 1, WIDTH // 7 + 1))
    mask = blocks.repeat(7, 0).repeat(7, 1)[:HEIGHT, :WIDTH]
    return image, mask.astype(np.uint8)


def write(
    path: Path,
    bands: NDArray[Any],
    transform: Affine | None = NORTH_WEST,
    crs: CRS | None = UTM,
    driver: str = "GTiff",
    **options: Any,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = bands if bands.ndim == 3 else bands[None]
    profile = {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2]}
    if transform:
        profile |= {"transform": transform, "crs": crs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        colormap = options.pop("colormap", None)
        with rasterio.open(path, "w", driver, dtype=bands.dtype, **(profile | options)) as file:
            file.write(bands)
            if colormap:
                file.write_colormap(1, colormap)


def colours(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The mask in its classes' colours, (3, height, width)."""
    table = {0: (0, 255, 0), 3: (255, 0, 0), 4: (255, 0, 0), 200: (0, 0, 255)}
    rgb = np.zeros((*mask.shape, 3), np.uint8)
    for value, colour in table.items():
        rgb[mask == value] = colour
    return rgb.transpose(2, 0, 1)


def expected_ids(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.where(mask == 4, 3, mask).astype(np.uint8)


def union(kind: str, bands: int) -> tuple[NDArray[Any], dict[tuple[float, float], Affine]]:
    """All patches of a kind put together by the index's grid, and their transforms by corner."""
    index = read_index()
    dtype = np.uint8
    whole: NDArray[Any] = np.zeros((bands, HEIGHT, WIDTH), dtype)
    transforms = {}
    for row in index.itertuples():
        path = Path("data/raw") / (row.image_path if kind == "IMG" else row.mask_path)
        y = min(row.zone_row * SIZE, HEIGHT - SIZE)
        x = min(row.zone_column * SIZE, WIDTH - SIZE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                whole[:, y : y + SIZE, x : x + SIZE] = file.read()
                transforms[x, y] = file.transform
    return whole, transforms


def cut(params: Params) -> str:
    summary = raw_patches.main(params)
    patch_index.main(params)
    return summary


MaskWriter = Callable[[Path, NDArray[np.uint8]], None]
PALETTE = {0: (255, 0, 0), 1: (0, 0, 255), 2: (0, 255, 0)}  # indices that are no values
MASKS: dict[str, tuple[str, MaskWriter]] = {
    "uint8": ("a.tif", lambda path, mask: write(path, mask)),
    "int16": ("a.tif", lambda path, mask: write(path, mask.astype(np.int16))),
    "uint32": ("a.tif", lambda path, mask: write(path, mask.astype(np.uint32))),
    "float32": ("a.tif", lambda path, mask: write(path, mask.astype(np.float32))),
    "colours": ("a.tif", lambda path, mask: write(path, colours(mask))),
    "png colours": ("a.png", lambda path, mask: write(path, colours(mask), None, driver="PNG")),
    "jpeg 2000": (
        "a.jp2",
        lambda path, mask: write(path, mask, driver="JP2OpenJPEG", REVERSIBLE="YES", QUALITY=100),
    ),
    "cog": ("a.tif", lambda path, mask: write(path, mask, driver="COG")),
    "other palette": (
        "a.tif",
        lambda path, mask: write(
            path, np.select([mask == 0, mask == 200], [2, 1], 0).astype(np.uint8), colormap=PALETTE
        ),
    ),
    "quarter pixel off": (
        "a.tif",
        lambda path, mask: write(path, mask, NORTH_WEST @ Affine.translation(0.25, -0.25)),
    ),
    "without georeference": ("a.tif", lambda path, mask: write(path, mask, None)),
    "larger": (
        "a.tif",
        lambda path, mask: write(
            path, np.pad(mask, 20, mode="reflect"), NORTH_WEST @ Affine.translation(-20, -20)
        ),
    ),
}


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_of_any_kind_gives_the_same_ids(pairs: Params, kind: str) -> None:
    image, mask = draw()
    write(Path("rasters/images/a.tif"), image)
    name, writer = MASKS[kind]
    Path("rasters/masks").mkdir()
    writer(Path("rasters/masks") / name, mask)
    assert cut(pairs) == "12 patches cut from 1 rasters, 0 skipped for few valid pixels"
    assert np.array_equal(union("MSK", 1)[0][0], expected_ids(mask))
    assert np.array_equal(union("IMG", 3)[0], image)


@pytest.mark.parametrize(
    ("crs", "origin"),
    [
        (UTM, (500_000.3, 4_100_000.1)),
        (LAEA, (4_321_000, 3_210_000)),
        (CRS.from_epsg(2154), (700_000.05, 6_600_000)),
        (CUSTOM, (5_000.7, 5_000.2)),
        (CRS.from_epsg(2277), (3_000_000, 10_000_000)),  # Texas Central, US survey feet
    ],
)
def test_each_raster_keeps_its_own_crs(
    pairs: Params, crs: CRS, origin: tuple[float, float]
) -> None:
    image, mask = draw()
    transform = Affine(0.5, 0, origin[0], 0, -0.5, origin[1])
    write(Path("rasters/images/a.tif"), image, transform, crs)
    write(Path("rasters/masks/a.tif"), mask, transform, crs)
    cut(pairs)
    whole, transforms = union("IMG", 3)
    assert np.array_equal(whole, image)
    for (x, y), own in transforms.items():
        assert own == transform @ Affine.translation(x, y)
    row = read_index().iloc[0]
    assert CRS.from_user_input(row["crs"]) == crs
    assert (row["origin_x"], row["origin_y"], row["extent"]) == (*origin, SIZE / 2)
    foot = crs.linear_units_factor[1]
    assert row["pixel_size"] == pytest.approx(0.5 * foot, rel=1e-2)
    assert abs(row["latitude"]) > 20


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_rasters_without_georeference(pairs: Params, name: str) -> None:
    image, mask = draw()
    Path("rasters/images").mkdir(parents=True)
    Path("rasters/masks").mkdir()
    Image.fromarray(image.transpose(1, 2, 0)).save(Path("rasters/images") / name)
    Image.fromarray(mask).save("rasters/masks/a.png")
    with pytest.raises(UserError, match=r"has no georeference; set dataset_spec\.pixel_size"):
        cut(pairs)
    cut(with_spec(pairs, pixel_size=0.25))
    index = read_index()
    assert index["crs"].isna().all() and index["longitude"].isna().all()
    assert set(index["pixel_size"]) == {0.25}
    assert sorted(zip(index["zone_row"], index["zone_column"], strict=True))[-1] == (2, 3)
    assert np.array_equal(union("MSK", 1)[0][0], expected_ids(mask))


def test_16_bits_and_four_bands(pairs: Params) -> None:
    from aerialdreams.data.tiles import read_tile, tile_rgb

    image, mask = draw(bands=4)
    write(Path("rasters/images/a.tif"), image.astype(np.uint16) * 40 + 100)
    write(Path("rasters/masks/a.tif"), mask)
    bands = pairs.dataset_spec.bands.model_copy(update={"red": 3, "blue": 1, "near_infrared": 4})
    with pytest.raises(UserError, match=r"type uint16, not uint8; dataset_spec\.value_range"):
        cut(pairs)
    deep = with_spec(pairs, bands=bands, value_range=(100.0, 100 + 40 * 255.0))
    cut(deep)
    row = read_index().iloc[0]
    assert list(row["bands"]) == ["red", "green", "blue", "near_infrared"]
    tile = read_tile(Path("data/raw") / row["image_path"])
    rgb = tile_rgb(tile, bands, deep.dataset_spec.value_range)
    assert np.array_equal(rgb.transpose(2, 0, 1), image[[2, 1, 0], :SIZE, :SIZE])


def test_pixels_without_data_have_no_class(pairs: Params) -> None:
    image, mask = draw()
    image[:, :, :70] = 0
    mask[:10] = 255
    write(Path("rasters/images/a.tif"), image, nodata=0)
    write(Path("rasters/masks/a.tif"), mask)
    summary = cut(with_pairs(pairs, least_valid=0.5))
    assert summary == "9 patches cut from 1 rasters, 3 skipped for few valid pixels"
    ids = expected_ids(mask)
    ids[:, :70] = IGNORED
    ids[mask == 255] = IGNORED
    whole = union("MSK", 1)[0][0]
    assert np.array_equal(whole[:, 70:], ids[:, 70:])
    counts = np.stack(read_index()["pixels"].to_list())
    assert counts.sum(1).max() <= SIZE * SIZE and (counts.sum(1) < SIZE * SIZE).any()


def test_degrees_and_stretched_rasters_are_warped_or_refused(pairs: Params) -> None:
    image, mask = draw()
    step = 5e-6
    degrees = Affine(step, 0, 55.3, 0, -step, 25.2)
    for kind, bands in (("images", image), ("masks", mask)):
        write(Path(f"rasters/{kind}/a.tif"), bands, degrees, CRS.from_epsg(4326))
    with pytest.raises(
        UserError,
        match=r"images/a\.tif: is in degrees; set raw_patches\.pairs\.warp to true, or"
        r" warp.*gdalwarp -t_srs EPSG:32640 -tr 0\.50",
    ):
        cut(pairs)
    cut(with_pairs(pairs, warp=True))
    row = read_index().iloc[0]
    assert row["crs"] == "EPSG:32640"
    assert row["pixel_size"] == pytest.approx(0.504, abs=0.01)
    for kind, bands in (("images", image), ("masks", mask)):
        write(Path(f"rasters/{kind}/a.tif"), bands, NORTH_WEST, CRS.from_epsg(3857))
    with pytest.raises(UserError, match=r"a\.tif: is in a stretched projection: 0\.5 m of its CRS"):
        cut(pairs)


def test_warped_ids_are_those_of_the_place(pairs: Params) -> None:
    """Four fields, found again by their longitude and latitude."""
    from rasterio.warp import transform

    image, mask = draw()
    mask[:] = 0
    mask[75:, :100], mask[:75, 100:], mask[75:, 100:] = 3, 200, 4
    step = 5e-6
    degrees = Affine(step, 0, 55.3, 0, -step, 25.2)
    for kind, bands in (("images", image), ("masks", mask)):
        write(Path(f"rasters/{kind}/a.tif"), bands, degrees, CRS.from_epsg(4326))
    cut(with_pairs(pairs, warp=True))
    checked = 0
    for row in read_index().itertuples():
        with rasterio.open(Path("data/raw") / row.mask_path) as file:
            ids, where, crs = file.read(1), file.transform, file.crs
        for y, x in np.argwhere(ids != IGNORED)[::97]:
            east, north = where @ (x + 0.5, y + 0.5)
            (longitude,), (latitude,) = transform(crs, "EPSG:4326", [east], [north])
            column, line = (longitude - 55.3) / step, (25.2 - latitude) / step
            if abs(column - 100) < 2 or abs(line - 75) < 2:
                continue
            assert ids[y, x] == expected_ids(mask)[int(line), int(column)]
            checked += 1
    assert checked > 100


def test_groups_dates_and_a_table(pairs: Params) -> None:
    for number in range(4):
        image, mask = draw(number)
        write(Path(f"rasters/images/city{number // 2}_2021071{number}_rgb.tif"), image)
        write(Path(f"rasters/masks/city{number // 2}_2021071{number}_labels.tif"), mask)
    write(Path("rasters/images/city9_20210709_rgb.tif"), image)
    Path("rasters/images/notes.txt").write_text("no raster")
    named = with_pairs(
        pairs,
        image_pattern=r"(?P<key>(?P<group>city\d)_(?P<date>\d{8}))_rgb",
        mask_pattern=r"(?P<key>city\d_\d{8})_labels",
    )
    assert "1 images without mask, such as rasters/images/city9" in cut(named)
    index = read_index()
    assert set(index["group"]) == {"city0", "city1"} and index["zone"].nunique() == 4
    assert sorted(set(index["date"])) == [f"2021-07-1{n}" for n in range(4)]
    rows = [
        {"image": f"images/city{n // 2}_2021071{n}_rgb.tif", "group": f"g{n}"}
        | {"mask": f"masks/city{n // 2}_2021071{n}_labels.tif"}
        for n in range(3)
    ]
    pd.DataFrame(rows).to_csv("rasters/list.csv", index=False)
    assert "from 3 rasters" in cut(with_pairs(pairs, table="list.csv"))
    assert set(read_index()["group"]) == {"g0", "g1", "g2"}


def test_splits_are_named_drawn_or_empty(pairs: Params) -> None:
    for number in range(10):
        image, mask = draw(number)
        far = NORTH_WEST @ Affine.translation(1000 * number, 0)
        write(Path(f"rasters/images/{number}.tif"), image, far)
        write(Path(f"rasters/masks/{number}.tif"), mask, far)
    raw_patches.main(pairs)
    assert patch_index.main(pairs) == "120 patches (120 train, 0 validation, 0 test), 0 rejected"
    drawn = pairs.patch_index.drawn.model_copy(update={"validation": 0.2, "test": 0.1})
    patch_index.main(changed(pairs, patch_index={"drawn": drawn}))
    index = read_index()
    groups = {split: set(rows["group"]) for split, rows in index.groupby("split")}
    assert {split: len(names) for split, names in groups.items()} == {
        "train": 7, "validation": 2, "test": 1,
    }  # fmt: skip
    again = changed(pairs, patch_index={"drawn": drawn, "test_groups": ["3"]})
    patch_index.main(again)
    assert "3" in set(read_index().query("split == 'test'")["group"])


def test_neighbours_in_other_splits_are_reported(pairs: Params) -> None:
    image, mask = draw()
    for name, shift in (("west", 0), ("east", WIDTH)):
        transform = NORTH_WEST @ Affine.translation(shift, 0)
        write(Path(f"rasters/images/{name}.tif"), image, transform)
        write(Path(f"rasters/masks/{name}.tif"), mask, transform)
    raw_patches.main(pairs)
    summary = patch_index.main(changed(pairs, patch_index={"validation_groups": ["east"]}))
    assert "patches touch one of another split: east_" in summary


def write_text(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("no raster")


REFUSED: dict[str, tuple[Callable[[], None], str]] = {
    "values": (
        lambda: write(Path("rasters/masks/a.tif"), draw()[1] + 1),
        r"masks/a\.tif: has pixels with the value 1, 5, 201; class ids are 0, 3, 200",
    ),
    "fractions": (
        lambda: write(Path("rasters/masks/a.tif"), draw()[1] + np.float32(0.5)),
        r"masks/a\.tif: has pixels that are no whole numbers",
    ),
    "lossy": (
        lambda: write(Path("rasters/masks/a.tif"), draw()[1], compress="JPEG"),
        r"masks/a\.tif: holds class ids compressed with loss \(JPEG\)",
    ),
    "other colours": (
        lambda: write(Path("rasters/masks/a.tif"), draw()[0]),
        r"masks/a\.tif: .* of its pixels have a colour that is no class's.*max_off_palette",
    ),
    "another size": (
        lambda: write(Path("rasters/masks/a.tif"), draw()[1][:100], None),
        r"masks/a\.tif: is 203 x 100 pixels, its image .*images/a\.tif is 203 x 150",
    ),
    "no raster": (
        lambda: write_text(Path("rasters/masks/a.tif")),
        r"masks/a\.tif: cannot be read as a raster",
    ),
    "no mask": (
        lambda: write(Path("rasters/masks/b.tif"), draw()[1]),
        r"none of its 1 images has a mask among the 1 in .*the keys are a and b",
    ),
    "two bands": (
        lambda: write(Path("rasters/masks/a.tif"), draw()[0][:2]),
        r"masks/a\.tif: has 2 bands besides alpha; a mask has 1",
    ),
    "far away": (
        lambda: write(Path("rasters/masks/a.tif"), draw()[1], FAR_EAST),
        r"none of 12 patches has enough pixels with data and a class",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_is_named(pairs: Params, kind: str) -> None:
    write(Path("rasters/images/a.tif"), draw()[0])
    writer, message = REFUSED[kind]
    writer()
    with pytest.raises(UserError, match=message):
        cut(pairs)
    assert not Path("data/raw").exists()


def test_a_shifted_mask_is_resampled_and_said(
    pairs: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    image, mask = draw()
    write(Path("rasters/images/a.tif"), image)
    write(Path("rasters/masks/a.tif"), mask, NORTH_WEST @ Affine.translation(3, 2))
    cut(pairs)
    said = capsys.readouterr().err
    assert "masks/a.tif: lies 3.0 pixels east and 2.0 south of its image" in said
    whole = union("MSK", 1)[0][0]
    assert np.array_equal(whole[2:, 3:], expected_ids(mask)[:-2, :-3])
    assert (whole[:2] == IGNORED).all() and (whole[:, :3] == IGNORED).all()


def test_no_file_of_the_user_is_changed(pairs: Params) -> None:
    image, mask = draw()
    write(Path("rasters/images/a.tif"), image)
    write(Path("rasters/masks/a.tif"), mask)
    before = {path: path.read_bytes() for path in Path("rasters").rglob("*") if path.is_file()}
    cut(pairs)
    after = {path: path.read_bytes() for path in Path("rasters").rglob("*") if path.is_file()}
    assert before == after


def test_stride_and_rasters_smaller_than_a_patch(pairs: Params) -> None:
    image, mask = draw()
    write(Path("rasters/images/a.tif"), image)
    write(Path("rasters/masks/a.tif"), mask)
    assert cut(with_pairs(pairs, stride=32)).startswith("24 patches")  # 4 rows of 6
    small = with_spec(pairs, patch_size=256)
    assert cut(small).startswith("1 patches")
    with rasterio.open(Path("data/raw") / read_index()["mask_path"][0]) as file:
        ids = file.read(1)
    assert np.array_equal(ids[:HEIGHT, :WIDTH], expected_ids(mask))
    assert (ids[HEIGHT:] == IGNORED).all() and (ids[:, WIDTH:] == IGNORED).all()
