"""Measure osm-metadata on an index of FLAIR's size: requests, time and memory of both backends.

Usage   python -m benchmarks.osm_join FOLDER [--patches N] [--zones N]
FOLDER has a real extract and recorded responses of an Overpass server (monaco-2016.osm.pbf,
overpass/). The zones repeat the areas that have responses, which a server on loopback returns. The
peer is one request per patch, which the first AerialDreams sent to Nominatim.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import pandas as pd
import shapely

from aerialdreams.data.flair import PATCH_EXTENT
from aerialdreams.osm.extract import Extract
from aerialdreams.osm.join import locate, name_levels
from aerialdreams.osm.overpass import Overpass
from aerialdreams.osm.zones import SearchRadius, zones_of
from aerialdreams.params import load_params
from tests.overpass_server import FakeServer, recorded_responses, recorded_zones, serve_overpass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--patches", type=int, default=77_412)
    parser.add_argument("--zones", type=int, default=916)
    arguments = parser.parse_args()
    index = repeated_index(arguments.folder, arguments.patches, arguments.zones)
    stage = load_params().osm_metadata
    radius = SearchRadius(stage.max_road_distance, stage.max_place_distance)
    print(f"{len(index)} patches in {index['zone'].nunique()} zones, {os.cpu_count()} cores")
    start = time.perf_counter()
    extract = Extract(
        arguments.folder / "monaco-2016.osm.pbf", [zone for zone, _ in zones_of(index)], radius
    )
    print(f"extract read in {time.perf_counter() - start:.1f} s")
    by_extract = measure("extract", extract, index, radius)
    with (
        tempfile.TemporaryDirectory() as folder,
        serve_overpass(FakeServer(recorded=recorded_responses(arguments.folder))) as server,
    ):
        settings = (server.url, "benchmark (me@example.org)", 0.0, radius, Path(folder))
        by_server = measure("overpass", Overpass(*settings), index, radius)
        kept = measure("overpass, kept responses", Overpass(*settings), index, radius)
        requests = len(server.queries)
        kept_bytes = sum(path.stat().st_size for path in Path(folder).iterdir())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{requests} requests, {kept_bytes / 1e6:.1f} MB of responses, peak memory {memory:.0f} MB"
    )
    report = {
        "ours": requests,
        "peer": len(index),
        "ratio": len(index) / requests,
        "units": "requests",
        "join_seconds": by_extract["join"],
        "extract_seconds": sum(by_extract.values()),
        "overpass_seconds": sum(by_server.values()),
        "kept_answers_seconds": sum(kept.values()),
        "memory_megabytes": memory,
        "answers_megabytes": kept_bytes / 1e6,
        "versions": {"shapely": shapely.__version__},
        "cores": os.cpu_count(),
    }
    print(json.dumps(report))


def repeated_index(folder: Path, patches: int, zones: int) -> pd.DataFrame:
    """An index of patches in zones that repeat the areas with recorded responses."""
    areas = [z["lambert93_bounds"] for z in recorded_zones(folder) if z["name"] != "open-sea"]
    side, rows = PATCH_EXTENT, []
    for number in range(patches):
        zone = number * zones // patches
        west, _, _, north = areas[zone % len(areas)]
        position = number - -(-zone * patches // zones)  # in its zone
        corner: dict[str, object] = {
            "origin_x": west + side * (position % 10),
            "origin_y": north - side * (position // 10),
            "extent": side,
        }
        corner |= {"crs": "EPSG:2154", "longitude": 7.4}
        names = {"patch_id": f"{number:06}", "group": "D006_2020", "zone": f"Z{zone}_UU"}
        rows.append(names | corner)
    return pd.DataFrame(rows)


def measure(
    name: str, source: Extract | Overpass, index: pd.DataFrame, radius: SearchRadius
) -> dict[str, float]:
    """Seconds to read all zones, and to join their features to the patches."""
    seconds = {"read": 0.0, "join": 0.0}
    zone_rows = []
    for zone, patches in zones_of(index):
        start = time.perf_counter()
        features = source.read_zone(zone)
        read = time.perf_counter()
        zone_rows.append((locate(patches, features, radius), features.boundaries))
        seconds["read"] += read - start
        seconds["join"] += time.perf_counter() - read
    start = time.perf_counter()
    name_levels(zone_rows)
    seconds["join"] += time.perf_counter() - start
    print(f"{name:24} zones {seconds['read']:6.1f} s, join {seconds['join']:6.1f} s")
    return seconds


if __name__ == "__main__":
    main()
