"""The area of all zones as GeoJSON, for cutting an OpenStreetMap extract (see docs/places.md)."""

import json

import pandas as pd
import shapely

from aerialdreams.osm.zones import zones_of


def outlines(index: pd.DataFrame, margin: float) -> str:
    """The zones as one GeoJSON feature in WGS 84, a multipolygon.

    Args:
        index: the patch index.
        margin: width added around each zone, metres.
    """
    boxes = [shapely.box(*zone.degrees(margin)) for zone, _ in zones_of(index)]
    parts = shapely.multipolygons(shapely.get_parts(shapely.union_all(boxes)))
    geometry = json.loads(str(shapely.to_geojson(parts)))
    return json.dumps({"type": "Feature", "properties": {}, "geometry": geometry})
