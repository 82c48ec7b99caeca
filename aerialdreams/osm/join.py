"""Assigns a zone's features to its patches."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import shapely

from aerialdreams.osm.features import LEVELS, OUTLINED, Boundary, ZoneFeatures
from aerialdreams.osm.zones import SearchRadius

# Codes of the départements in each region since 2016, from INSEE's Code officiel géographique. They
# give a patch's region where a border crosses its zone.
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


def locate(
    patches: pd.DataFrame, features: ZoneFeatures, radius: SearchRadius, metre: float = 1.0
) -> list[dict[str, Any]]:
    """Make one row of OSM metadata for each patch of a zone.

    `name_levels` adds the levels above the commune.

    Args:
        patches: the zone's rows of the patch index.
        features: the zone's features.
        radius: maximum distances to the nearest road and place.
        metre: a metre in the units of the zone's CRS.

    Returns:
        Rows with patch_id; the areas that contain the patch's centre (commune, insee, postcode,
        arrondissement_municipal, quartier); `communes`, the shares of its square; the road and
        the place nearest to its centre and their distances in metres; and what touches its
        square: `features` (pairs of key=value and count), `buildings` (count) and `waterways`
        (names). Null or empty where OSM has nothing.
    """
    x, y = patches["origin_x"].to_numpy(), patches["origin_y"].to_numpy()
    extent = patches["extent"].to_numpy()
    squares = shapely.box(x, y - extent, x + extent, y)
    centres = shapely.points(x + extent / 2, y - extent / 2)
    rows = [
        {**empty_row(patch_id), "timestamp": features.timestamp} for patch_id in patches["patch_id"]
    ]
    _add_areas(rows, centres, squares, features.boundaries)
    nearest_roads = _nearest(centres, features.roads, radius.road, metre)
    for row, nearest in zip(rows, nearest_roads, strict=True):
        if nearest:
            row["road_distance"], (row["road"],) = nearest
    nearest_places = _nearest(centres, features.places, radius.place, metre)
    for row, nearest in zip(rows, nearest_places, strict=True):
        if nearest:
            row["place_distance"], (row["place"], row["place_kind"]) = nearest
    for row, touching in zip(rows, _touching(squares, features.landscape), strict=True):
        row["features"] = sorted(Counter(tag for _, tag in touching).items())
    for row, touching in zip(rows, _touching(squares, features.waterways), strict=True):
        row["waterways"] = sorted({name for _, name in touching})
    for row, touching in zip(rows, _touching(squares, features.buildings), strict=True):
        row["buildings"] = len(touching)
    return rows


def empty_row(patch_id: str) -> dict[str, Any]:
    """The row of a patch of which OpenStreetMap says nothing."""
    return {"patch_id": patch_id, "buildings": 0, "features": [], "waterways": []}


def _add_areas(
    rows: list[dict[str, Any]], centres: Any, squares: Any, boundaries: list[Boundary]
) -> None:
    """Add the areas that contain each centre, and the shares of communes in each square."""
    for level in OUTLINED:
        areas = [(b.outline, b) for b in boundaries if b.level == level and b.outline]
        for row, touching in zip(rows, _touching(centres, areas), strict=True):
            if touching:
                # A centre on a border touches two areas: take the first by code and name.
                area = min((b for _, b in touching), key=lambda b: (b.code or "", b.name))
                row[LEVELS[level]] = area.name
                if level == 8:
                    row["insee"], row["postcode"] = area.code, area.postcode
        if level == 8:
            communes = _touching(squares, areas)
            for row, square, touching in zip(rows, squares, communes, strict=True):
                row["communes"] = _shares(square, [boundary for _, boundary in touching])


def _touching(shapes: Any, items: Sequence[Any]) -> list[list[Any]]:
    """For each shape the items whose geometry, their first entry, touches it, in their order."""
    tree = shapely.STRtree([item[0] for item in items])
    touching: list[list[Any]] = [[] for _ in shapes]
    for shape, item in sorted(tree.query(shapes, predicate="intersects").T.tolist()):
        touching[shape].append(items[item])
    return touching


def _shares(square: shapely.Geometry, areas: list[Boundary]) -> list[dict[str, Any]]:
    """Share of a square in each area, 0 to 1, largest first."""
    shares = []
    for area in areas:
        inside = float(shapely.area(shapely.intersection(square, area.outline)))
        share = round(inside / float(shapely.area(square)), 4)
        if share > 0:
            shares.append({"commune": area.name, "insee": area.code, "share": share})
    return sorted(shares, key=lambda s: (-s["share"], s["insee"] or "", s["commune"]))


def _nearest(centres: Any, items: Sequence[Any], limit: float, metre: float) -> list[Any]:
    """For each centre the distance in metres and the labels of the nearest item, or None.

    Ties are broken by the labels, so that the order of the data does not matter.
    """
    nearest: list[Any] = [None] * len(centres)
    tree = shapely.STRtree([shape for shape, *_ in items])
    pairs, distances = tree.query_nearest(centres, max_distance=limit * metre, return_distance=True)
    metres = np.round(distances / metre, 2)
    for (centre, item), distance in zip(pairs.T.tolist(), metres, strict=True):
        candidate = (float(distance), tuple(items[item][1:]))
        if nearest[centre] is None or candidate < nearest[centre]:
            nearest[centre] = candidate
    return nearest


def name_levels(zones: list[tuple[list[dict[str, Any]], list[Boundary]]]) -> None:
    """Add country, region, departement and arrondissement to the rows of all zones.

    The outlines of these levels are not read. A French commune's INSEE code determines its
    département and region; their names come from any zone that such an area touches. Without a
    code, a level is named only if a single area of it touches the zone, and if the same holds for
    all levels above it.

    Args:
        zones: rows and boundaries of each zone. The rows are modified.
    """
    names = {
        (boundary.level, boundary.code): boundary.name
        for _, boundaries in zones
        for boundary in boundaries
        if boundary.code
    }
    for rows, boundaries in zones:
        areas_of_level = {
            level: {(b.name, b.code) for b in boundaries if b.level == level}
            for level in LEVELS
            if level not in OUTLINED
        }
        for row in rows:
            row["departement_code"] = departement_of(row.get("insee"))
            codes = {2: None, 4: None, 6: row["departement_code"]}
            if row["departement_code"]:
                codes |= {2: "FR", 4: REGION_OF.get(row["departement_code"])}
            for level, areas in areas_of_level.items():
                row[LEVELS[level]] = _name(level, areas, codes, names)
                if row[LEVELS[level]] is None and not row["departement_code"] and len(areas) > 1:
                    break  # the patch may lie on either side of this border: leave the rest empty


def _name(
    level: int,
    areas: set[tuple[str, str | None]],
    codes: dict[int, str | None],
    names: dict[tuple[int, str], str],
) -> str | None:
    """The name of a patch's area of a level.

    Args:
        level: the level.
        areas: name and code of that level's areas that touch the zone.
        codes: the patch's codes, by level.
        names: names of areas in all zones, by level and code.
    """
    code = codes.get(level)
    if code and (level, code) in names:
        return names[level, code]
    if level == 7 and codes[6]:  # an arrondissement's code starts with its département's
        areas = {area for area in areas if not area[1] or area[1].startswith(codes[6])}
    only_name = next(iter(areas))[0] if len(areas) == 1 else None
    # If the area had the patch's code, `names` would have it: an area with a code is another area.
    return only_name if not code or all(not other for _, other in areas) else None


def departement_of(insee: str | None) -> str | None:
    """The département in a commune's INSEE code: 06012 is in 06, 2A004 in 2A, 97411 in 974."""
    if not insee:
        return None
    return insee[:3] if insee.startswith(("97", "98")) else insee[:2]
