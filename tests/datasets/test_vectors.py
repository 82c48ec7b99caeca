"""Masks from vector data: order, widths, coasts, places, mistakes, and the real Monaco."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import shapely

from aerialdreams.data.vectors import Mapping, load_mapping, read_vector_mask
from aerialdreams.errors import UserError
from aerialdreams.params import load_params
from tests.conftest import ROOT

CLASSES = load_params().classes
IDS = {row.name: row.id for row in CLASSES}
MONACO = ROOT.parent / "shared/data/osm/monaco-2016.osm.pbf"


def write(path: Path, shapes: list[Any], crs: str = "EPSG:2154", **columns: list[str]) -> Path:
    """A vector file in the format of its suffix."""
    pyogrio.raw.write(
        path,
        np.array([shapely.to_wkb(shape) for shape in shapes], object),
        [np.array(values, object) for values in columns.values()],
        list(columns),
        crs=crs,
        geometry_type="Unknown",
    )
    return path


def mapping(*rules: dict[str, Any], **values: str) -> Mapping:
    return Mapping.model_validate({"rules": list(rules)} | values)


@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "fgb", "shp"])
def test_polygons_of_cosia(tmp_path: Path, suffix: str) -> None:
    """In every format the same pixels, where they are on the ground."""
    shapes = [
        shapely.box(700000, 6600000, 700010, 6600010),
        shapely.box(700010, 6600000, 700020, 6600010),
    ]
    path = write(tmp_path / f"a.{suffix}", shapes, classe=["Bâtiment", "Vigne"])
    mask = read_vector_mask(path, load_mapping("cosia"), CLASSES, 1.0)
    expected = np.full((10, 20), IDS["building"], np.uint8)
    expected[:, 10:] = IDS["vineyard"]
    assert np.array_equal(mask.class_ids, expected) and mask.valid.all()
    assert mask.georeference and mask.georeference.crs
    assert mask.georeference.crs.to_epsg() == 2154
    assert mask.georeference.transform @ (0, 0) == (700000, 6600010)


def test_later_rules_are_drawn_over_earlier_ones_and_lines_have_widths(tmp_path: Path) -> None:
    shapes = [
        shapely.LineString([(0, 5), (20, 5)]),
        shapely.box(0, 0, 20, 10),
        shapely.Point(3, 3),
    ]
    path = write(tmp_path / "a.gpkg", shapes, "EPSG:32633", kind=["road", "field", "tree"])
    rules = (
        {"class": "plowed land", "where": {"kind": ["field"]}},
        {"class": "impervious surface", "where": {"kind": "*"}, "width": 4},
    )
    mask = read_vector_mask(path, mapping(*rules), CLASSES, 1.0).class_ids
    assert (mask[3:7] == IDS["impervious surface"]).all()
    assert (mask[:3] == IDS["plowed land"]).all() and (mask[7:] == IDS["plowed land"]).all()
    reverse = read_vector_mask(path, mapping(*rules[::-1]), CLASSES, 1.0).class_ids
    assert (reverse == IDS["plowed land"]).all()
    alone = read_vector_mask(path, mapping(rules[1]), CLASSES, 1.0)
    assert not alone.valid[0].any() and (alone.class_ids[0] == 255).all()
    grounded = mapping(rules[1], background="water")
    assert (read_vector_mask(path, grounded, CLASSES, 1.0).class_ids[0] == IDS["water"]).all()
    area = read_vector_mask(path, grounded, CLASSES, 0.5, (5.0, 4.0, 10.0, 10.0)).class_ids
    assert area.shape == (12, 10) and (area[6:] == IDS["impervious surface"]).all()


def test_the_sea_is_to_the_right_of_the_coast(tmp_path: Path) -> None:
    """An island runs counter-clockwise around its land, as OpenStreetMap has it."""
    coast = shapely.LineString([(0, 10), (20, 10)])  # to the east: the sea is in the south
    island = shapely.LineString([(5, 2), (9, 2), (9, 6), (5, 6), (5, 2)])
    area = shapely.box(0, 0, 20, 20)
    shapes = [coast, island, area]
    tags = ["coastline", "coastline", "frame"]
    path = write(tmp_path / "a.gpkg", shapes, "EPSG:32633", natural=tags)
    rule = {"class": "building", "where": {"natural": ["none"]}}
    drawn = mapping(rule, background="bare soil", sea="water")
    mask = read_vector_mask(path, drawn, CLASSES, 1.0).class_ids
    expected = np.full((20, 20), IDS["bare soil"], np.uint8)
    expected[10:] = IDS["water"]
    expected[14:18, 5:9] = IDS["bare soil"]
    assert np.array_equal(mask, expected)


def test_degrees_are_drawn_in_metres(tmp_path: Path) -> None:
    side = 100 / 111_132  # degrees of latitude
    path = write(tmp_path / "a.geojson", [shapely.box(3, 0, 3 + side, side)], "EPSG:4326", a=["x"])
    rule = {"class": "water", "where": {"a": ["x"]}}
    mask = read_vector_mask(path, mapping(rule), CLASSES, 1.0)
    assert mask.georeference and mask.georeference.crs
    assert mask.georeference.crs.to_epsg() == 32631
    assert abs(mask.class_ids.shape[0] - 100) <= 1 and abs(mask.class_ids.shape[1] - 100) <= 1


def test_mistakes_are_a_message(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gpkg", [shapely.box(0, 0, 9, 9)], "EPSG:32633", a=["x"])
    rule = {"class": "water", "where": {"a": ["x"]}}
    for action, said in (
        (lambda: read_vector_mask(tmp_path / "b.gpkg", mapping(rule), CLASSES, 1), "not found"),
        (lambda: read_vector_mask(path, mapping(rule | {"class": "lava"}), CLASSES, 1), "lava"),
        (
            lambda: read_vector_mask(path, mapping(rule | {"where": {"a": ["y"]}}), CLASSES, 1),
            "none",
        ),
        (lambda: read_vector_mask(path, mapping(rule), CLASSES, 0.0001), "--bounds"),
        (lambda: read_vector_mask(path, mapping(rule), CLASSES, 1, (9, 0, 0, 9)), "west < east"),
        (lambda: load_mapping("nowhere.yaml"), "one of cosia, osm"),
    ):
        with pytest.raises(UserError, match=said):
            action()
    for content, said in (
        ("rules: [", "not valid YAML"),
        ("rules: []", "rules"),
        (json.dumps({"rules": [rule | {"widht": 3}]}), "widht"),
    ):
        (tmp_path / "m.yaml").write_text(content)
        with pytest.raises(UserError, match=said):
            load_mapping(str(tmp_path / "m.yaml"))
    (tmp_path / "broken.gpkg").write_bytes(b"SQLite format 3\0" + b"\0" * 100)
    with pytest.raises(UserError, match="cannot be read"):
        read_vector_mask(tmp_path / "broken.gpkg", mapping(rule), CLASSES, 1)


@pytest.mark.skipif(not MONACO.exists(), reason="shared/data is absent")
def test_the_real_monaco() -> None:
    """The harbour and the open sea are water, the palace and its rock are not."""
    bounds = (7.412, 43.725, 7.43, 43.742)
    mask = read_vector_mask(MONACO, load_mapping("osm"), CLASSES, 1.0, bounds)
    assert mask.valid.all() and mask.georeference and mask.georeference.crs
    assert mask.georeference.crs.to_epsg() == 32632
    shares = {row.name: (mask.class_ids == row.id).mean() for row in CLASSES}
    assert 0.25 < shares["water"] < 0.31 and 0.1 < shares["building"] < 0.3

    def at(longitude: float, latitude: float) -> int:
        from rasterio.warp import transform

        assert mask.georeference
        (x,), (y,) = transform("EPSG:4326", mask.georeference.crs, [longitude], [latitude])
        column, row = ~mask.georeference.transform @ (x, y)
        return int(mask.class_ids[int(row), int(column)])

    assert at(7.4245, 43.7352) == IDS["water"]  # Port Hercule
    assert at(7.4203, 43.7314) != IDS["water"]  # the Prince's Palace
    assert at(7.4286, 43.7280) == IDS["water"]  # the open sea
