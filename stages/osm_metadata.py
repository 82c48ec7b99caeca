"""osm-metadata: where each patch lies, by OpenStreetMap.

Reads   data/patches.parquet, an OpenStreetMap extract (.osm.pbf)
Writes  data/osm_metadata.parquet: the patch's country, region, departement, commune, nearest named
        road and nearest place, with distances in metres; null where the extract has nothing

Contains information from OpenStreetMap, © OpenStreetMap contributors, ODbL 1.0.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import osmium
import pandas as pd
import pyarrow as pa
import shapely
from numpy.typing import NDArray
from rasterio.warp import transform

from aerialdreams.errors import UserError
from aerialdreams.params import OsmMetadata, Params
from aerialdreams.patches import OSM_CREDIT, OSM_METADATA, PIXEL, SIDE, read_index
from aerialdreams.progress import progress
from aerialdreams.stage import run_stage
from aerialdreams.tables import write_table

# France's levels of `boundary=administrative` that captions speak of.
LEVELS = {"2": "country", "4": "region", "6": "departement", "8": "commune"}
PLACES = ("city", "town", "village", "suburb", "quarter", "neighbourhood", "hamlet", "locality")

SCHEMA = pa.schema(
    [
        ("patch_id", pa.string()),
        ("country", pa.string()),
        ("region", pa.string()),
        ("departement", pa.string()),
        ("departement_code", pa.string()),
        ("commune", pa.string()),
        ("insee", pa.string()),
        ("road", pa.string()),
        ("road_distance", pa.float64()),
        ("place", pa.string()),
        ("place_kind", pa.string()),
        ("place_distance", pa.float64()),
    ]
)


@dataclass
class Extract:
    """What captions need of an extract, geometries in EPSG:2154."""

    areas: dict[str, list[tuple[shapely.Geometry, str, str | None]]] = field(
        default_factory=lambda: {level: [] for level in LEVELS.values()}
    )  # by level: outline, name, INSEE code
    roads: list[tuple[shapely.Geometry, str]] = field(default_factory=list)
    places: list[tuple[shapely.Geometry, str, str]] = field(default_factory=list)  # with its kind
    cut: list[str] = field(default_factory=list)  # boundaries that the extract's edge cuts


def main(params: Params) -> str:
    index = read_index()
    extract = read_extract(Path(params.osm_metadata.extract))
    rows = locate(index, extract, params.osm_metadata)
    write_table(OSM_METADATA, rows, SCHEMA, OSM_CREDIT)
    found = {key: sum(row[key] is not None for row in rows) for key in ("commune", "road", "place")}
    counts = ", ".join(f"{count} with a {key}" for key, count in found.items())
    cut = ""
    if extract.cut:
        few = ", ".join(extract.cut[:5]) + (", ..." if len(extract.cut) > 5 else "")
        cut = f"; {len(extract.cut)} boundaries cut by the extract's edge left out ({few})"
    return f"{len(rows)} patches located, {counts}{cut}"


def read_extract(path: Path) -> Extract:
    """Read boundaries, named roads and places.

    Raises:
        UserError: the file is missing or no whole OpenStreetMap file.
    """
    if not path.is_file():
        raise UserError(f"{path}: not found; set osm_metadata.extract to an .osm.pbf of the area")
    extract, wkb = Extract(), osmium.geom.WKBFactory()
    try:
        elements = (
            osmium.FileProcessor(str(path))
            .with_locations()
            .with_areas(osmium.filter.KeyFilter("boundary"))
            .with_filter(osmium.filter.KeyFilter("boundary", "highway", "place"))
        )
        for element in elements:
            _take(extract, element, wkb)
    except RuntimeError as error:
        raise UserError(
            f"{path}: not a whole OpenStreetMap file ({error}); fetch or cut it again"
        ) from None
    return extract


def _take(extract: Extract, element: Any, wkb: osmium.geom.WKBFactory) -> None:
    tags = element.tags
    name = tags.get("name")
    if not name:
        return
    if element.is_area():
        level = LEVELS.get(tags.get("admin_level", ""))
        if element.from_way() or level is None or tags.get("boundary") != "administrative":
            return
        if element.num_rings()[0] == 0:
            extract.cut.append(name)
            return
        outline = _to_lambert(shapely.from_wkb(wkb.create_multipolygon(element)))
        extract.areas[level].append((outline, name, tags.get("ref:INSEE")))
    elif element.is_way() and "highway" in tags:
        points = [(node.lon, node.lat) for node in element.nodes if node.location.valid()]
        if len(points) > 1:
            extract.roads.append((_to_lambert(shapely.LineString(points)), name))
    elif element.is_node() and tags.get("place") in PLACES:
        point = shapely.Point(element.location.lon, element.location.lat)
        extract.places.append((_to_lambert(point), name, tags["place"]))


def _to_lambert(geometry: shapely.Geometry) -> shapely.Geometry:
    def project(points: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = transform("EPSG:4326", "EPSG:2154", points[:, 0], points[:, 1])
        return np.stack([x, y], 1)

    return shapely.transform(geometry, project)


def locate(index: pd.DataFrame, extract: Extract, stage: OsmMetadata) -> list[dict[str, Any]]:
    """One row for each patch: the areas around its centre, the road and place nearest to it."""
    half = SIDE * PIXEL / 2
    centres = shapely.points(index["origin_x"] + half, index["origin_y"] - half)
    trees = {
        level: shapely.STRtree([area[0] for area in areas])
        for level, areas in extract.areas.items()
    }
    roads = shapely.STRtree([road[0] for road in extract.roads])
    places = shapely.STRtree([place[0] for place in extract.places])
    rows = []
    patches = zip(index["patch_id"], centres, strict=True)
    for patch_id, centre in progress(patches, "patches located", "patches", len(index)):
        row: dict[str, Any] = dict.fromkeys(SCHEMA.names) | {"patch_id": patch_id}
        for level, areas in extract.areas.items():
            around = [areas[i] for i in trees[level].query(centre, predicate="intersects")]
            if around:
                # On a shared border two areas touch the centre: take the first by code and name.
                _, row[level], code = min(around, key=lambda area: (area[2] or "", area[1]))
                if level == "commune":
                    row["insee"] = code
                elif level == "departement":
                    row["departement_code"] = code
        road = _nearest(roads, extract.roads, centre, stage.max_road_distance)
        if road:
            row["road_distance"], (_, row["road"]) = road
        place = _nearest(places, extract.places, centre, stage.max_place_distance)
        if place:
            row["place_distance"], (_, row["place"], row["place_kind"]) = place
        rows.append(row)
    return rows


def _nearest(tree: shapely.STRtree, items: list[Any], centre: shapely.Point, limit: float) -> Any:
    """Distance in metres and item nearest to a point, the first by name of several, or None."""
    (numbers, distances) = tree.query_nearest(centre, max_distance=limit, return_distance=True)
    if len(numbers) == 0:
        return None
    best = min(range(len(numbers)), key=lambda k: (distances[k], items[numbers[k]][1]))
    return round(float(distances[best]), 2), items[numbers[best]]


if __name__ == "__main__":
    run_stage("osm-metadata", __doc__, main)
