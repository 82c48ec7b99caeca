"""The ground of all zones as GeoJSON, to cut an extract to.

`python -m aerialdreams.osm.outlines` reads data/patches.parquet and writes to the standard output.
The README says what to do with it.
"""

import json
import sys

import pandas as pd
import shapely

from aerialdreams.data.index import read_index
from aerialdreams.errors import USER_ERROR, UserError
from aerialdreams.osm.knowledge import zones_of
from aerialdreams.params import OsmMetadata, load_params


def outlines(index: pd.DataFrame, stage: OsmMetadata) -> str:
    """One feature, a polygon of several parts in WGS 84: each zone and what is asked around it."""
    reach = max(stage.max_place_distance, stage.max_road_distance)
    ground = shapely.union_all([shapely.box(*zone.degrees(reach)) for zone, _ in zones_of(index)])
    parts = shapely.multipolygons(shapely.get_parts(ground))
    geometry = json.loads(str(shapely.to_geojson(parts)))
    return json.dumps({"type": "Feature", "properties": {}, "geometry": geometry})


if __name__ == "__main__":
    try:
        print(outlines(read_index(), load_params().osm_metadata))
    except UserError as error:
        print(f"outlines: error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
