"""Which of a zone's knowledge concerns which patch."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import shapely

from aerialdreams.data.flair import PATCH_SIZE, PIXEL_SIZE
from aerialdreams.osm.knowledge import LEVELS, OUTLINED, Boundary, Knowledge, SearchRadius

# France's regions since 2016 and their departements, INSEE's Code officiel geographique. Where a
# border crosses a zone, a patch's commune tells its departement, and that its region.
REGIONS = {
    "01": "971", "02": "972", "03": "973", "04": "974", "06": "976",
    "11": "75 77 78 91 92 93 94 95",
    "24": "18 28 36 37 41 45",
    "27": "21 25 39 58 70 71 89 90",
    "28": "14 27 50 61 76",
    "32": "02 59 60 62 80",
    "44": "08 10 51 52 54 55 57 67 68 88",
    "52": "44 49 53 72 85",
    "53": "22 29 35 56",
    "75": "16 17 19 23 24 33 40 47 64 79 86 87",
    "76": "09 11 12 30 31 32 34 46 48 65 66 81 82",
    "84": "01 03 07 15 26 38 42 43 63 69 73 74",
    "93": "04 05 06 13 83 84",
    "94": "2A 2B",
}  # fmt: skip
REGION_OF = {code: region for region, codes in REGIONS.items() for code in codes.split()}


def locate(patches: pd.DataFrame, known: Knowledge, radius: SearchRadius) -> list[dict[str, Any]]:
    """One row for each patch of a zone, without the levels above the commune.

    Args:
        patches: rows of the index.
        known: what OSM knows of their zone.
        radius: how far the nearest road and place may be.

    Returns:
        Rows with patch_id, the areas that hold its centre (commune, insee, postcode,
        arrondissement_municipal, quartier), `communes` (shares of its square), road and place
        nearest to its centre, and what lies in its square: `features` (number by key=value),
        `buildings`, `waterways`. Null or empty where OSM has nothing.
    """
    side = PATCH_SIZE * PIXEL_SIZE
    x, y = patches["origin_x"].to_numpy(), patches["origin_y"].to_numpy()
    squares = shapely.box(x, y - side, x + side, y)
    centres = shapely.points(x + side / 2, y - side / 2)
    rows: list[dict[str, Any]] = [
        {"patch_id": patch_id, "buildings": 0, "timestamp": known.timestamp}
        for patch_id in patches["patch_id"]
    ]
    for level in OUTLINED:
        areas = [b for b in known.boundaries if b.level == level and b.outline]
        tree = shapely.STRtree([area.outline for area in areas if area.outline])
        for row, around in zip(rows, _found(tree, centres, areas), strict=True):
            if around:
                # On a shared border two areas touch the centre: take the first by code and name.
                area = min(around, key=lambda a: (a.code or "", a.name))
                row[LEVELS[level]] = area.name
                if level == 8:
                    row["insee"], row["postcode"] = area.code, area.postcode
        if level == 8:
            around_squares = _found(tree, squares, areas)
            for row, square, around in zip(rows, squares, around_squares, strict=True):
                row["communes"] = _shares(square, around)
    for row, near in zip(rows, _nearest(centres, known.roads, radius.road), strict=True):
        if near:
            row["road_distance"], (row["road"],) = near
    near_places = _nearest(centres, known.places, radius.place)
    for row, near in zip(rows, near_places, strict=True):
        if near:
            row["place_distance"], (row["place"], row["place_kind"]) = near
    landscape = shapely.STRtree([shape for shape, _ in known.landscape])
    waterways = shapely.STRtree([shape for shape, _ in known.waterways])
    buildings = shapely.STRtree([shape for (shape,) in known.buildings])
    for row, found in zip(rows, _found(landscape, squares, known.landscape), strict=True):
        row["features"] = sorted(Counter(kind for _, kind in found).items())
    for row, found in zip(rows, _found(waterways, squares, known.waterways), strict=True):
        row["waterways"] = sorted({name for _, name in found})
    for row, found in zip(rows, _found(buildings, squares, known.buildings), strict=True):
        row["buildings"] = len(found)
    return rows


def _found(tree: shapely.STRtree, shapes: Any, items: Sequence[Any]) -> list[list[Any]]:
    """For each shape, those of the tree's items that touch it, in their order."""
    found: list[list[Any]] = [[] for _ in shapes]
    for shape, item in sorted(tree.query(shapes, predicate="intersects").T.tolist()):
        found[shape].append(items[item])
    return found


def _shares(square: shapely.Geometry, areas: list[Boundary]) -> list[dict[str, Any]]:
    """Share of a square in each area, 0 to 1, the largest first."""
    shares = []
    for area in areas:
        inside = float(shapely.area(shapely.intersection(square, area.outline)))
        share = round(inside / (PATCH_SIZE * PIXEL_SIZE) ** 2, 4)
        if share > 0:
            shares.append({"commune": area.name, "insee": area.code, "share": share})
    return sorted(shares, key=lambda s: (-s["share"], s["insee"] or "", s["commune"]))


def _nearest(centres: Any, items: Sequence[Any], limit: float) -> list[Any]:
    """For each centre the distance in metres and the rest of the nearest item, or None.

    Of several at one distance the first by its words, whatever their order in the data.
    """
    nearest: list[Any] = [None] * len(centres)
    tree = shapely.STRtree([shape for shape, *_ in items])
    pairs, distances = tree.query_nearest(centres, max_distance=limit, return_distance=True)
    for (centre, item), distance in zip(pairs.T.tolist(), np.round(distances, 2), strict=True):
        found = (float(distance), tuple(items[item][1:]))
        if nearest[centre] is None or found < nearest[centre]:
            nearest[centre] = found
    return nearest


def name_levels(located: list[tuple[list[dict[str, Any]], list[Boundary]]]) -> None:
    """Fill country, region, departement and arrondissement of all zones' rows.

    Their outlines are not at hand. A French commune's INSEE code tells its departement, and that
    its region; names come from any zone that has the area of that code. Where no code tells, a
    level is named if one area alone of that level touches the zone, and of all levels above too.

    Args:
        located: for each zone its rows, which are changed, and its boundaries.
    """
    names = {
        (boundary.level, boundary.code): boundary.name
        for _, boundaries in located
        for boundary in boundaries
        if boundary.code
    }
    for rows, boundaries in located:
        touching = {
            level: {(b.name, b.code) for b in boundaries if b.level == level}
            for level in LEVELS
            if level not in OUTLINED
        }
        for row in rows:
            row["departement_code"] = departement_of(row.get("insee"))
            codes = {2: None, 4: None, 6: row["departement_code"]}
            if row["departement_code"]:
                codes |= {2: "FR", 4: REGION_OF.get(row["departement_code"])}
            for level, areas in touching.items():
                row[LEVELS[level]] = _name(level, areas, codes, names)
                if row[LEVELS[level]] is None and not row["departement_code"] and len(areas) > 1:
                    break  # beyond a border that nothing tells apart, lower levels may lie too


def _name(
    level: int,
    areas: set[tuple[str, str | None]],
    codes: dict[int, str | None],
    names: dict[tuple[int, str], str],
) -> str | None:
    code = codes.get(level)
    if code and (level, code) in names:
        return names[level, code]
    if level == 7 and codes[6]:  # an arrondissement's code begins with its departement's
        areas = {area for area in areas if not area[1] or area[1].startswith(codes[6])}
    single = next(iter(areas))[0] if len(areas) == 1 else None
    # An area with a code is another one than that of our code, or it had been found by it.
    return single if not code or all(not other for _, other in areas) else None


def departement_of(insee: str | None) -> str | None:
    """A commune's departement by its INSEE code: 06012 is in 06, 2A004 in 2A, 97411 in 974."""
    if not insee:
        return None
    return insee[:3] if insee.startswith(("97", "98")) else insee[:2]
