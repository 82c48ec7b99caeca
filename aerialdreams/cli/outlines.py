"""`aerialdreams outlines`: the area of all zones as GeoJSON."""

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "outlines",
        help="print the area of all zones as GeoJSON, for cutting an OpenStreetMap extract",
        description="Print the area of all zones in data/patches.parquet as GeoJSON, widened by the"
        " distance within which roads and places are searched.",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> str:
    """Return the zones of the patch index as GeoJSON.

    Raises:
        UserError: the index or params.yaml is missing or wrong.
    """
    from aerialdreams.data.index import read_index
    from aerialdreams.osm.outlines import outlines
    from aerialdreams.params import load_params

    stage = load_params().osm_metadata
    return outlines(read_index(), max(stage.max_place_distance, stage.max_road_distance))
