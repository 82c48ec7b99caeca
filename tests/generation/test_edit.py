"""aerialdreams edit: what does not change stays, what changes follows the mask, no seams."""

import csv
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray

from aerialdreams.data.georeference import GeoReference
from aerialdreams.data.images import read_mask, write_image, write_mask
from aerialdreams.data.rasters import write_geotiff
from aerialdreams.generation.editing import edit, repaint_weights
from aerialdreams.generation.painter import Painter
from aerialdreams.params import load_params
from tests.projects import run

CLASSES = load_params().classes


@pytest.fixture(scope="module")
def painter(whole: Path) -> Painter:
    """The small project's model."""
    return Painter(whole / "models/controlnet", whole / "models/adapted_base")


@pytest.fixture(scope="module")
def mask(whole: Path) -> NDArray[np.uint8]:
    """A ground of 2 x 3 tiles, larger than the model's images."""
    paths = sorted((whole / "data/masks").glob("*.png"))[:6]
    tiles = [read_mask(path)[::8, ::8] for path in paths]
    return np.vstack([np.hstack(tiles[:3]), np.hstack(tiles[3:])])


def read(path: Path) -> NDArray[np.uint8]:
    with rasterio.open(path) as file:
        bands: NDArray[np.uint8] = file.read()
    return bands.transpose(1, 2, 0).squeeze()


def test_weights_fall_off_within_the_margin() -> None:
    changed = np.zeros((1, 21), bool)
    changed[0, 10] = True
    weights = repaint_weights(changed, 4)[0]
    assert weights[10] == 1 and (weights[[5, 15]] == 0).all() and (weights[[6, 14]] > 0).all()
    assert (np.diff(weights[5:11]) > 0).all() and np.array_equal(weights, weights[::-1])
    plane = np.zeros((41, 41), bool)
    plane[20, 20] = True
    y, x = np.ogrid[-20:21, -20:21]
    assert not repaint_weights(plane, 8)[np.hypot(y, x) > 8].any()  # also between 8 and 9 pixels
    assert np.array_equal(repaint_weights(changed, 0)[0], changed[0].astype(np.float32))
    assert not repaint_weights(np.zeros((3, 3), bool), 4).any()


@pytest.mark.parametrize("photograph", ["noise", "flat"])
def test_pixels_beyond_the_margin_are_identical(
    painter: Painter, mask: NDArray[np.uint8], photograph: str
) -> None:
    """Also where the autoencoder could never show the photograph, and with two areas."""
    draw = np.random.default_rng(0)
    image = np.full((*mask.shape, 3), 90, np.uint8)
    if photograph == "noise":
        image = draw.integers(0, 256, image.shape, np.uint8)
    after, height = mask.copy(), mask.shape[0]
    after[5:12, 100:110], after[height - 1, :20] = 5, 5
    changed = after != mask
    result = edit(painter, image, after, changed, "Aerial view.", seed=1, margin=6, steps=2)
    kept = repaint_weights(changed, 6) == 0
    assert np.array_equal(result[kept], image[kept])
    assert (result[changed] != image[changed]).any(1).mean() > 0.9
    again = edit(painter, image, after, changed, "Aerial view.", seed=1, margin=6, steps=2)
    assert np.array_equal(result, again)
    with pytest.raises(ValueError, match="must cover the same pixels"):
        edit(painter, image[1:], after, changed, "")


def steps_across(image: NDArray[np.uint8], inside: NDArray[np.bool_]) -> float:
    """Mean difference of neighbours on both sides of an area's border."""
    values = image.astype(float)
    right = inside[:, 1:] != inside[:, :-1]
    down = inside[1:] != inside[:-1]
    differences = [
        abs(values[:, 1:] - values[:, :-1]).mean(2)[right],
        abs(values[1:] - values[:-1]).mean(2)[down],
    ]
    return float(np.concatenate(differences).mean())


def test_the_border_of_an_edit_has_no_seam(painter: Painter, mask: NDArray[np.uint8]) -> None:
    """A photograph whose colour the model would not choose, repainted without a change of mask."""
    photograph = painter.paint(mask, "Aerial view.", seed=1, steps=2)
    shifted = np.clip(photograph.astype(int) + 60, 0, 255).astype(np.uint8)
    region = np.zeros(mask.shape, bool)
    region[40:80, 60:110] = True
    found = {}
    for margin in (0, 12):
        image = edit(painter, shifted, mask, region, "Aerial view.", 2, margin, steps=2)
        border = repaint_weights(region, margin) > 0
        found[margin] = steps_across(image, border) / steps_across(shifted, border)
    assert found[12] < 1.35 < found[0]  # without blending there is a seam


@pytest.fixture
def files(mask: NDArray[np.uint8], tmp_path: Path) -> Path:
    """before.tif and after.tif of a ground, and the model's links."""
    reference = GeoReference(Affine(1.6, 0, 700000, 0, -1.6, 6600000), "EPSG:2154")
    after = mask.copy()
    after[20:30, 20:50] = 18
    write_geotiff(tmp_path / "before.tif", mask, reference, {}, CLASSES)
    write_geotiff(tmp_path / "after.tif", after, reference, {}, CLASSES)
    draw = np.random.default_rng(3)
    photograph = draw.integers(0, 256, (*mask.shape, 3), np.uint8)
    write_geotiff(tmp_path / "photograph.tif", photograph, reference, {})
    return tmp_path


def model(whole: Path) -> list[str]:
    return ["--controlnet", f"{whole}/models/controlnet", "--base", f"{whole}/models/adapted_base"]


def test_edit_from_the_shell(whole: Path, files: Path) -> None:
    before = (files / "before.tif").read_bytes()
    words = ["before.tif", "after.tif", "--photograph", "photograph.tif", "--margin", "5"]
    ended = run(files, "aerialdreams", "edit", *words, "--steps", "2", *model(whole))
    assert ended.returncode == 0, ended.stderr
    out = files / "before-edit"
    names = {path.stem for path in out.iterdir()}
    assert names == {"before", "after", "mask-before", "mask-after", "change"}
    change = read(out / "change.tif") > 0
    assert np.array_equal(change, read(out / "mask-before.tif") != read(out / "mask-after.tif"))
    real, made = read(out / "before.tif"), read(out / "after.tif")
    assert np.array_equal(real, read(files / "photograph.tif"))
    kept = repaint_weights(change, 5) == 0
    assert np.array_equal(real[kept], made[kept]) and not np.array_equal(real, made)
    with rasterio.open(out / "after.tif") as file, rasterio.open(files / "before.tif") as mask:
        assert file.transform == mask.transform and file.tags()["SYNTHETIC"] == "YES"
    with rasterio.open(out / "before.tif") as file:
        assert "SYNTHETIC" not in file.tags()
    assert (files / "before.tif").read_bytes() == before


def test_a_region_is_repainted_without_a_change_of_mask(whole: Path, files: Path) -> None:
    polygon = (
        '{"type": "FeatureCollection", "crs": {"type": "name", "properties": {"name":'
        ' "urn:ogc:def:crs:EPSG::2154"}}, "features": [{"type": "Feature", "properties": {},'
        ' "geometry": {"type": "Polygon", "coordinates": [[[700032, 6599968], [700064, 6599968],'
        " [700064, 6599936], [700032, 6599936], [700032, 6599968]]]}}]}"
    )
    (files / "area.geojson").write_text(polygon)
    words = ["before.tif", "--region", "area.geojson", "--photograph", "photograph.tif"]
    ended = run(files, "aerialdreams", "edit", *words, "--steps", "2", *model(whole))
    assert ended.returncode == 0, ended.stderr
    change = read(files / "before-edit/change.tif") > 0
    expected = np.zeros_like(change)
    expected[20:40, 20:40] = True
    assert np.array_equal(change, expected)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["before.tif"], "name a mask after the change"),
        (["before.tif", "before.tif"], "changes nothing"),
        (["before.tif", "none.tif"], "none.tif: not found"),
        (["before.tif", "small.png"], "both must cover the same ground"),
        (["before.tif", "after.tif", "--output", "."], "holds an input"),
        (["before.tif", "after.tif", "--photograph", "before.tif"], "has red, green and blue"),
        (["before.tif", "after.tif", "--photograph", "elsewhere.tif"], "does not cover"),
        (["before.tif", "--region", "small.png"], "the mask"),
        (["before.tif", "--table", "none.csv"], "none.csv: not found"),
        (["before.tif", "--table", "wrong.csv"], "line 3: lava: no class"),
        (["before.tif", "--table", "empty.csv"], "has no row"),
        (["before.tif", "--table", "snow.csv"], "no mask has a place"),
    ],
)
def test_mistakes_are_a_message(whole: Path, files: Path, words: list[str], said: str) -> None:
    write_mask(files / "small.png", np.full((8, 9), 3, np.uint8), CLASSES)
    far = GeoReference(Affine(1.6, 0, 800000, 0, -1.6, 6600000), "EPSG:2154")
    write_geotiff(files / "elsewhere.tif", np.zeros((64, 64, 3), np.uint8), far, {})
    (files / "wrong.csv").write_text("from,to\nbuilding,water\nlava,water\n")
    (files / "empty.csv").write_text("from,to\n")
    (files / "snow.csv").write_text("from,to\nsnow,water\n")
    ended = run(files, "aerialdreams", "edit", *words, *model(whole))
    assert ended.returncode == 2 and said in ended.stderr, ended.stderr
    assert "Traceback" not in ended.stderr


def test_pairs_by_a_table(whole: Path, files: Path, mask: NDArray[np.uint8]) -> None:
    """Interrupted and continued, they are the same; each has its exact change."""
    (files / "masks").mkdir()
    for number in range(2):
        write_mask(files / f"masks/{number}.png", mask[:64, 64 * number :][:, :64], CLASSES)
    (files / "edits.csv").write_text(
        "from,to,shape,size,x,y\n,building,rectangle,16,,\n,water,disc,20,50,60\n"
        ",impervious surface,line,5,,\n"
    )
    words = ["masks", "--table", "edits.csv", "--count", "6", "--steps", "1", "--margin", "3"]
    command = ["aerialdreams", "edit", *words, "--output", "pairs", *model(whole)]
    ended = run(files, *command)
    assert ended.returncode == 0, ended.stderr
    pairs = files / "pairs"
    with (pairs / "metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["to"] for row in rows[:3]] == ["building", "water", "impervious surface"]
    for row in rows:
        images = {
            name: read(pairs / name / f"{row['pair']}.png")
            for name in ("before", "after", "mask-before", "mask-after", "change")
        }
        changed = images["change"] > 0
        assert changed.sum() == int(row["changed_pixels"]) > 0
        assert np.array_equal(changed, images["mask-before"] != images["mask-after"])
        kept = repaint_weights(changed, 3) == 0
        assert np.array_equal(images["before"][kept], images["after"][kept])
    assert "IGN" in (pairs / "README.md").read_text()
    content = (pairs / "after/000004.png").read_bytes()
    for name in ("after", "change"):
        (pairs / f"{name}/000004.png").unlink()
    assert run(files, *command).returncode == 0
    assert (pairs / "after/000004.png").read_bytes() == content
    other = run(files, *command, "--seed", "9")
    assert other.returncode == 2 and "made with other arguments" in other.stderr


def test_a_photograph_without_georeference(whole: Path, files: Path) -> None:
    mask = read(files / "before.tif")
    after = mask.copy()
    after[:10, :10] = 5
    write_mask(files / "a.png", mask, CLASSES)
    write_mask(files / "b.png", after, CLASSES)
    write_image(files / "c.png", np.full((*mask.shape, 3), 80, np.uint8))
    words = ["a.png", "b.png", "--photograph", "c.png", "--steps", "1", "--output", "out"]
    ended = run(files, "aerialdreams", "edit", *words, *model(whole))
    assert ended.returncode == 0, ended.stderr
    assert (read(files / "out/after.png")[40:] == 80).all()
