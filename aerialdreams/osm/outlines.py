"""The area of all zones as GeoJSON, to cut an extract of OpenStreetMap to (see docs/places.md)."""

import json

import pandas as pd
import shapely

from aerialdreams.osm.knowledge import zones_of


def outlines(index: pd.DataFrame, margin: float) -> str:
    """One GeoJSON feature in WGS 84, a multipolygon of the zones.

    Args:
        index: the patch index.
        margin: metres around each zone.
    """
    boxes = [shapely.box(*zone.degrees(margin)) for zone, _ in zones_of(index)]
    parts = shapely.multipolygons(shapely.get_parts(shapely.union_all(boxes)))
    geometry = json.loads(str(shapely.to_geojson(parts)))
    return json.dumps({"type": "Feature", "properties": {}, "geometry": geometry})
