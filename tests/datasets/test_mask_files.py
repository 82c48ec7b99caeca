"""Users' masks, in the forms that geospatial programs write."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS

from aerialdreams.data.georeference import (
    GeoReference,
    NotSquareError,
    ground_pixel_size,
)
from aerialdreams.data.images import write_mask
from aerialdreams.data.land_cover import mask_to_rgb
from aerialdreams.data.mask_files import (
    UserMask,
    ids_from_colours,
    read_user_mask,
    resample_mask,
)
from aerialdreams.data.rasters import write_geotiff
from aerialdreams.errors import UserError
from aerialdreams.params import Params
from tests.conftest import ROOT

MASKS = ROOT / "tests/data/masks"
LAMBERT_93 = CRS.from_epsg(2154)
NORTH_WEST = Affine(0.2, 0, 700_000, 0, -0.2, 6_600_000)  # of the masks with side files


@pytest.fixture
def ids(params: Params) -> NDArray[np.uint8]:
    """The ids of the mask that the files of tests/data/masks hold."""
    return read_user_mask(MASKS / "georeference_beside/world.tif", params.classes).class_ids


def test_the_ids_are_those_of_the_file(ids: NDArray[np.uint8]) -> None:
    with rasterio.open(MASKS / "georeference_beside/world.tif") as file:
        assert np.array_equal(file.read(1), ids)
    assert sorted(set(ids.ravel().tolist())) == [2, 3, 5, 7, 10, 11]


@pytest.mark.parametrize("name", ["world.png", "world.tif", "aux_all.tif"])
def test_a_georeference_beside_the_file_is_read(name: str, params: Params) -> None:
    mask = read_user_mask(MASKS / "georeference_beside" / name, params.classes)
    assert mask.georeference is not None
    assert mask.georeference.transform.almost_equals(NORTH_WEST)
    assert ground_pixel_size(mask.georeference, 64, 64) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("mask_suffix", "side_suffixes"),
    [
        (".png", [".pgw"]),
        (".png", [".pngw"]),
        (".png", [".wld"]),
        (".png", [".png.aux.xml"]),
        (".png", [".pgw", ".png.aux.xml"]),  # as QGIS exports: the CRS apart from the transform
        (".tif", [".tfw"]),
        (".tif", [".wld"]),
        (".tif", [".tif.aux.xml"]),
        (".bmp", [".bpw"]),
        (".jp2", [".j2w"]),
    ],
)
def test_side_files_are_read_whatever_gdal_is_set_to(
    mask_suffix: str,
    side_suffixes: list[str],
    tmp_path: Path,
    params: Params,
    ids: NDArray[np.uint8],
) -> None:
    driver = {".png": "PNG", ".tif": "GTiff", ".bmp": "BMP", ".jp2": "JP2OpenJPEG"}[mask_suffix]
    lossless = {"QUALITY": "100", "REVERSIBLE": "YES"} if driver == "JP2OpenJPEG" else {}
    profile = {"width": 64, "height": 64, "count": 1, "dtype": "uint8"} | lossless
    with rasterio.open(tmp_path / f"mask{mask_suffix}", "w", driver, **profile) as file:
        file.write(ids, 1)
    for suffix in side_suffixes:
        text = "0.2\n0\n0\n-0.2\n700000.1\n6599999.9\n"  # centre of the first pixel
        if suffix.endswith(".aux.xml"):
            transform = "<GeoTransform>700000, 0.2, 0, 6600000, 0, -0.2</GeoTransform>"
            transform = transform if len(side_suffixes) == 1 else ""
            text = f"<PAMDataset><SRS>EPSG:2154</SRS>{transform}</PAMDataset>"
        (tmp_path / f"mask{suffix}").write_text(text)
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", GDAL_PAM_ENABLED="NO"):
        mask = read_user_mask(tmp_path / f"mask{mask_suffix}", params.classes)
    assert np.array_equal(mask.class_ids, ids)
    assert mask.georeference is not None
    assert mask.georeference.transform.almost_equals(NORTH_WEST)
    has_crs = side_suffixes[-1].endswith(".aux.xml")
    assert mask.georeference.crs == (LAMBERT_93 if has_crs else None)


def test_ground_control_points_are_read(
    ids: NDArray[np.uint8], params: Params, tmp_path: Path
) -> None:
    corners = [(0, 0), (0, 64), (64, 0), (64, 64)]
    points = [
        GroundControlPoint(row, column, 700_000 + 0.5 * column, 6_600_000 - 0.5 * row)
        for row, column in corners
    ]
    profile = {"driver": "GTiff", "width": 64, "height": 64, "count": 1, "dtype": "uint8"}
    with rasterio.open(tmp_path / "gcps.tif", "w", **profile) as file:
        file.write(ids, 1)
        file.gcps = (points, LAMBERT_93)
    mask = read_user_mask(tmp_path / "gcps.tif", params.classes)
    assert mask.georeference is not None and mask.georeference.crs == LAMBERT_93
    assert ground_pixel_size(mask.georeference, 64, 64) == pytest.approx(0.5)


@pytest.mark.parametrize("path", sorted((MASKS / "number_types").iterdir()), ids=lambda p: p.name)
def test_whole_numbers_of_any_type_are_ids(
    path: Path, ids: NDArray[np.uint8], params: Params
) -> None:
    mask = read_user_mask(path, params.classes)
    assert np.array_equal(mask.class_ids[mask.valid], ids[mask.valid])
    assert mask.valid.all() == (path.name != "ids_float32_nan.tif")


@pytest.mark.parametrize("name", ["from_zero.png", "from_zero.tif", "reordered.png"])
def test_a_palette_that_contradicts_its_values_is_followed(
    name: str, ids: NDArray[np.uint8], params: Params
) -> None:
    mask = read_user_mask(MASKS / f"paletted_other_indices/paletted_{name}", params.classes)
    assert np.array_equal(mask.class_ids, ids)
    assert "its palette contradicts its values: 1 is drawn in the colour of" in mask.notes[0]


def test_a_palette_of_16_bit_values_is_followed(
    ids: NDArray[np.uint8], params: Params, tmp_path: Path
) -> None:
    colours = {299 + i: (*c.rgb, 255) for i, c in enumerate(params.classes, start=1)}
    profile = {"width": 64, "height": 64, "count": 1, "dtype": "uint16"}
    path = tmp_path / "mask.tif"
    with rasterio.open(path, "w", "GTiff", photometric="PALETTE", **profile) as file:
        file.write(ids.astype(np.uint16) + 299, 1)
        file.write_colormap(1, colours)
    mask = read_user_mask(path, params.classes)
    assert np.array_equal(mask.class_ids, ids)
    assert "its palette contradicts its values" in mask.notes[0]


def test_a_palette_of_other_colours_leaves_the_values(
    ids: NDArray[np.uint8], params: Params, tmp_path: Path
) -> None:
    for name, colour in (("grey", lambda i: (i, i, i)), ("random", lambda i: (i * 7 % 256, 9, 1))):
        image = Image.fromarray(ids)
        image.putpalette([value for i in range(256) for value in colour(i)])
        image.save(tmp_path / f"{name}.png")
        mask = read_user_mask(tmp_path / f"{name}.png", params.classes)
        assert np.array_equal(mask.class_ids, ids) and not mask.notes


@pytest.mark.parametrize(
    "path", sorted((MASKS / "transparent_outside").iterdir()), ids=lambda p: p.name
)
def test_pixels_declared_invalid_are_not_land(
    path: Path, ids: NDArray[np.uint8], params: Params
) -> None:
    mask = read_user_mask(path, params.classes)
    assert mask.valid.mean() == pytest.approx(0.66, abs=0.01)
    assert np.array_equal(mask.class_ids[mask.valid], ids[mask.valid])
    assert mask.off_palette == 0


@pytest.mark.parametrize("name", ["ids_jpeg.tif", "ids_quality90.jpg"])
def test_ids_compressed_with_loss_are_refused(name: str, params: Params) -> None:
    with pytest.raises(UserError, match=r"class ids compressed with loss \(JPEG\)"):
        read_user_mask(MASKS / "lossy_ids" / name, params.classes)
    assert read_user_mask(MASKS / "lossy_ids/ids.png", params.classes).valid.all()


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("merc_compound.tif", 0.1975),  # EPSG:3857 with a height
        ("merc_towgs84.tif", 0.1970),  # the same as a PROJ string
        ("crs_local_ft.tif", 0.2 * 0.3048),  # a local CRS in feet: nothing to measure
    ],
)
def test_pixel_size_is_measured_on_the_ground(name: str, size: float, params: Params) -> None:
    mask = read_user_mask(MASKS / "stretched_crs" / name, params.classes)
    assert mask.georeference is not None
    assert ground_pixel_size(mask.georeference, 64, 64) == pytest.approx(size, abs=1e-4)


@pytest.mark.parametrize(
    ("crs", "x", "y", "pixel", "size"),
    [
        ("EPSG:2154", 700_000, 6_600_000, 0.2, 0.2),
        ("EPSG:5698", 700_000, 6_600_000, 0.2, 0.2),  # Lambert-93 with height
        ("EPSG:3946", 1_700_000, 5_200_000, 0.2, 0.2),  # CC46
        ("EPSG:27572", 600_000, 2_200_000, 0.5, 0.5),  # Lambert II on the NTF
        ("EPSG:32631", 500_000, 5_400_000, 0.5, 0.5),  # UTM
        ("EPSG:3035", 3_760_000, 2_890_000, 1.0, 1.0),  # LAEA of Europe
        ("EPSG:2263", 990_000, 200_000, 1.0, 0.3048),  # New York, US survey feet
        ("EPSG:3857", 260_000, 6_250_000, 1.0, 0.6583),  # Paris: 1 / cos(latitude)
        ("+proj=lcc +lat_1=44 +lat_2=49 +lat_0=46.5 +lon_0=3 +units=m", 0, 0, 0.2, 0.2),
        (None, 9, 9, 0.7, 0.7),
    ],
)  # fmt: skip
def test_every_projection_is_taken_at_its_scale(
    crs: str | None, x: float, y: float, pixel: float, size: float
) -> None:
    reference = GeoReference(
        Affine(pixel, 0, x, 0, -pixel, y), CRS.from_string(crs) if crs else None
    )
    assert ground_pixel_size(reference, 500, 500) == pytest.approx(size, rel=2e-3)


@pytest.mark.parametrize(
    ("crs", "transform", "message"),
    [
        ("EPSG:4326", Affine(1e-5, 0, 2.3, 0, -1e-5, 48.8), r"has pixels of 0\.73\d x 1\.11 m on"),
        ("EPSG:2154", Affine(1, 0, 7e5, 0, -2, 6.6e6), "has pixels of 1 x 2 m on the ground"),
        ("EPSG:2154", Affine(1, 0, 7e5, 0, 1, 6.6e6), "is rotated or mirrored against its CRS"),
        ("EPSG:2154", Affine(0.9, 0.1, 7e5, 0.1, -0.9, 6.6e6), "is rotated or mirrored"),
        ("EPSG:3857", Affine(1000, 0, 0, 0, -1000, 8e6), "must be squares of one size"),
    ],
)
def test_pixels_that_are_no_squares_of_one_size_are_refused(
    crs: str, transform: Affine, message: str
) -> None:
    """At another scale the image would look right and be wrong."""
    with pytest.raises(NotSquareError, match=message):
        ground_pixel_size(GeoReference(transform, CRS.from_string(crs)), 1000, 1000)


Make = Callable[[Path, Params], object]


def save_float(path: Path, params: Params) -> None:
    profile = {"driver": "GTiff", "width": 8, "height": 8, "count": 1, "dtype": "float32"}
    with rasterio.open(path.with_suffix(".tif"), "w", **profile) as file:
        file.write(np.full((1, 8, 8), 2.5, np.float32))
    path.with_suffix(".tif").rename(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p, c: None, r"mask\.png: not found"),
        (lambda p, c: p.write_text("text"), r"mask\.png: cannot be read as a mask"),
        (lambda p, c: write_mask(p, np.full((8, 8), 20, np.uint8), c.classes),
         r"with the value 20; class ids are 1 to 19"),
        (lambda p, c: write_mask(p, np.zeros((8, 8), np.uint8), c.classes), r"with the value 0; "),
        (lambda p, c: Image.new("RGB", (8, 8), (1, 2, 3)).save(p), r"100\.0% of its pixels have a"),
        (lambda p, c: Image.new("RGBA", (8, 8)).save(p), r"has no valid pixel: all are nodata"),
        (save_float, r"pixels that are no whole numbers"),
    ],
)  # fmt: skip
def test_a_wrong_mask_is_named(make: Make, message: str, tmp_path: Path, params: Params) -> None:
    make(tmp_path / "mask.png", params)
    with pytest.raises(UserError, match=message):
        read_user_mask(tmp_path / "mask.png", params.classes)


@pytest.mark.slow
def test_a_very_large_png_is_read(tmp_path: Path, params: Params) -> None:
    """Pillow takes more than 179 million pixels for a decompression bomb."""
    rows = np.zeros((13_400, 13_400), np.uint8)
    rows[:6_700] = 5
    rows[6_700:] = 10
    profile = {"driver": "PNG", "width": 13_400, "height": 13_400, "count": 1, "dtype": "uint8"}
    with rasterio.open(tmp_path / "large.png", "w", **profile, ZLEVEL=1) as file:
        file.write(rows, 1)
    mask = read_user_mask(tmp_path / "large.png", params.classes)
    assert np.array_equal(mask.class_ids, rows)


def test_colours_get_the_nearest_class(params: Params) -> None:
    ids = np.random.default_rng(0).integers(1, 20, (20, 20), np.uint8)
    bands = mask_to_rgb(ids, params.classes).transpose(2, 0, 1).copy()
    valid = np.ones((20, 20), bool)
    assert ids_from_colours(bands, valid, params.classes)[1] == 0
    bands[:, 0, 0] = np.clip(bands[:, 0, 0].astype(int) + 2, 0, 255)
    nearest, off = ids_from_colours(bands, valid, params.classes)
    assert np.array_equal(nearest, ids) and off == pytest.approx(1 / 400)


def test_a_resampled_mask_covers_the_same_ground() -> None:
    reference = GeoReference(Affine(0.2, 0, 961436.8, 0, -0.2, 6250000.0), LAMBERT_93)
    ids = np.arange(1, 17, dtype=np.uint8).reshape(4, 4)
    valid = np.ones((4, 4), bool)
    valid[:2] = False
    half = resample_mask(UserMask(ids, valid, reference, 0.0, ()), 0.2, 0.4)
    assert half.class_ids.shape == (2, 2) and set(half.class_ids.ravel()) <= set(ids.ravel())
    assert half.valid.tolist() == [[False, False], [True, True]]
    assert half.georeference is not None
    assert half.georeference.transform @ (2, 2) == pytest.approx(reference.transform @ (4, 4))


def test_a_written_mask_reads_back(tmp_path: Path, params: Params) -> None:
    ids = np.random.default_rng(1).integers(1, 20, (16, 16), np.uint8)
    reference = GeoReference(Affine(0.2, 0, 961436.8, 0, -0.2, 6250000.0), LAMBERT_93)
    write_geotiff(tmp_path / "mask.tif", ids, reference, {}, params.classes)
    mask = read_user_mask(tmp_path / "mask.tif", params.classes)
    assert np.array_equal(mask.class_ids, ids) and mask.georeference == reference
