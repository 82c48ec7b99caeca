"""A dataset of one's own through all stages: other classes, two CRS, pixels without a class."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from affine import Affine
from datasets import load_dataset
from rasterio.crs import CRS

from aerialdreams.cli import main
from aerialdreams.params import load_params
from aerialdreams.pipeline.settings import apply_settings
from tests.conftest import ROOT
from tests.projects import SMALL, run_stages, set_params

CITIES = {"nairobi": 32737, "texas": 2277, "tyrol": 31254}  # Texas in US survey feet
SMALLER = {
    **{key: SMALL[key] for key in ("runtime", "image_size", "base_model", "train_segmenter")},
    **{key: SMALL[key] for key in ("train_controlnet", "tracking", "evaluate_utility")},
    "generate_validation": {"batch_size": 4, "grid_rows": 2, "masks": 4},
}
SETTING = {
    "dataset_spec": {
        "name": "Three cities",
        "credit": "© Three agencies, CC BY 4.0",
        "licence": "cc-by-4.0",
        "url": "https://example.org/cities",
        "classes": [
            {"name": "ground", "colour": "#ccbb99", "values": [0]},
            {"name": "road", "colour": "#444444", "values": [7, 8]},
            {"name": "roof", "colour": "#aa3322", "values": [30]},
        ],
        "patch_size": 64,
        "pixel_size": None,
        "crs": None,
        "bands": {"red": 1, "green": 2, "blue": 3, "near_infrared": None, "height": None},
        "value_range": [0, 1000],
        "published_percentages": [],
    },
    "raw_patches": {
        "source": "pairs",
        "folder": "data/external",
        "pairs": {"image_pattern": r"(?P<key>(?P<group>[a-z]+)_\d)", "stride": 64},
    },
    "patch_index": {"validation_groups": ["tyrol"], "test_groups": ["texas"]},
    "osm_metadata": {"backend": "none", "extract": "data/external"},
    "captions": {"default_place": ""},
}


def write_cities(folder: Path) -> None:
    """Images of 16 bits with roads and roofs, and masks with nodata, two rasters a city."""
    rng = np.random.default_rng(1)
    for epsg, city in ((epsg, city) for city, epsg in CITIES.items()):
        crs = CRS.from_epsg(epsg)
        pixel = 0.5 / crs.linear_units_factor[1]
        for number in range(2):
            mask = np.zeros((192, 192), np.uint8)
            for at in rng.integers(0, 180, 4):
                mask[at : at + 9] = 7
            for y, x in rng.integers(0, 170, (30, 2)):
                mask[y : y + 14, x : x + 14] = 30
            image = np.choose(np.digitize(mask, [5, 20]), [700, 250, 500])[None]
            image = (image + rng.normal(0, 30, (3, 192, 192))).clip(1, 1000).astype(np.uint16)
            mask[:20, :20] = 255
            where = {"nairobi": (255_000, 9_858_000), "texas": (3_110_000, 10_070_000)}
            x, y = where.get(city, (80_000, 5_236_000))
            transform = Affine(pixel, 0, x + 300 * number, 0, -pixel, y)
            for kind, bands in (("images", image), ("masks", mask[None])):
                path = folder / kind / f"{city}_{number}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                profile = {"count": len(bands), "height": 192, "width": 192, "crs": crs}
                nodata = 255 if kind == "masks" else None
                with rasterio.open(
                    path, "w", "GTiff", dtype=bands.dtype, transform=transform, nodata=nodata,
                    **profile,
                ) as file:  # fmt: skip
                    file.write(bands)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which all stages ran on three invented cities, as docs/own-data.md says."""
    place = tmp_path_factory.mktemp("own")
    write_cities(place / "data/external")
    shutil.copy(ROOT / "params.yaml", place)
    (place / "settings").mkdir()
    shutil.copy(ROOT / "settings/default.yaml", place / "settings")
    (place / "settings/mine.yaml").write_text(yaml.safe_dump(SETTING))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.delenv("DVC_ROOT", raising=False)
        apply_settings(["mine"])
        set_params(place, SMALLER)
        params = load_params()
        assert params.dataset_spec.name == "Three cities"
        run_stages(params)
        yield place


def exit_code(*words: str) -> int:
    """The exit code of the `aerialdreams` command."""
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


def test_masks_keep_their_numbers(project: Path) -> None:
    rows = load_dataset(str(project / "data/dataset"), cache_dir=str(project / "cache"))
    assert {split: len(part) for split, part in rows.items()} == dict.fromkeys(rows, 18)
    ids = {value for part in rows.values() for row in part for value in np.unique(row["mask"])}
    assert ids == {0, 7, 30, 255}
    crs = {row["group"]: row["crs"] for part in rows.values() for row in part}
    assert crs == {city: f"EPSG:{epsg}" for city, epsg in CITIES.items()}
    assert np.asarray(rows["train"][0]["image"]).mean() > 60  # 16 bits, scaled to 8
    assert rows["test"][0]["caption"].startswith("ground")


def test_images_lie_where_their_patches_do(project: Path) -> None:
    for split, city in (("validation", "tyrol"), ("test", "texas")):
        folder = project / f"data/generated/{split}/generated"
        images = sorted(folder.glob("*.tif"))
        assert len(images) == 4
        with rasterio.open(project / f"data/external/images/{city}_0.tif") as source:
            crs, bounds = source.crs, source.bounds
        with rasterio.open(images[0]) as image:
            assert image.crs == crs
            assert image.bounds.left == pytest.approx(bounds.left)
            assert image.bounds.top == pytest.approx(bounds.top)
            assert image.bounds.right == pytest.approx(
                bounds.left + (bounds.right - bounds.left) / 3
            )
            assert "© Three agencies, CC BY 4.0" in image.tags()["CREDITS"]
            assert "OpenStreetMap" not in image.tags()["CREDITS"]
        with rasterio.open(next(folder.glob("*.vrt"))) as mosaic:
            assert mosaic.crs == crs


def test_metrics_and_cards_are_of_these_classes(project: Path) -> None:
    evaluation = json.loads((project / "metrics/evaluation.json").read_text())
    assert set(evaluation["test"]["real"]["iou"]) == {"ground", "road", "roof"}
    cards = ["data/dataset", *(f"models/{name}" for name in ("controlnet", "base", "segmenter"))]
    for card in [*cards, "models/adapted_base"]:
        text = (project / card / "README.md").read_text()
        assert "© Three agencies, CC BY 4.0" in text
        assert "IGN" not in text and "FLAIR" not in text and "OpenStreetMap" not in text
    info = json.loads((project / "models/controlnet/aerialdreams.json").read_text())
    assert info["pixel_size_metres"] == pytest.approx(0.5, rel=1e-3)
    assert info["ignored"] == []


def test_generate_takes_a_mask_of_the_dataset(project: Path) -> None:
    source = project / "data/external/masks/nairobi_0.tif"
    assert exit_code("generate", str(source), "--output", "image.tif") == 0
    with rasterio.open(project / "image.tif") as image, rasterio.open(source) as mask:
        assert image.bounds == mask.bounds
        assert np.array_equal(image.dataset_mask() > 0, mask.read(1) != 255)


def test_publishing_asks_for_this_credit(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("publish", "dataset", "me/cities", "--dry-run")
    assert exit_code(*words) == 0
    card = project / "data/dataset/README.md"
    text = card.read_text()
    card.write_text(text.replace("Three agencies", "Nobody"))
    assert exit_code(*words) == 2
    card.write_text(text)
    assert "lacks © Three agencies, CC BY 4.0" in capsys.readouterr().err
