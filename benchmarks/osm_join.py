"""osm-metadata on an index of FLAIR's size: requests, seconds and memory, by both backends.

Usage   python -m benchmarks.osm_join FOLDER [--patches N] [--zones N]
FOLDER holds a real extract and real answers of an Overpass server (monaco-2016.osm.pbf, overpass/).
The zones lie again and again on the ground that has answers; a server on loopback gives them. The
peer is one request a patch, as the first AerialDreams asked Nominatim.
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

from aerialdreams.data.flair import PATCH_SIZE, PIXEL_SIZE
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
    words = parser.parse_args()
    index = repeated_index(words.folder, words.patches, words.zones)
    stage = load_params().osm_metadata
    radius = SearchRadius(stage.max_road_distance, stage.max_place_distance)
    print(f"{len(index)} patches in {index['zone'].nunique()} zones, {os.cpu_count()} cores")
    began = time.perf_counter()
    extract = Extract(
        words.folder / "monaco-2016.osm.pbf", [zone for zone, _ in zones_of(index)], radius
    )
    print(f"extract read in {time.perf_counter() - began:.1f} s")
    by_extract = measure("extract", extract, index, radius)
    with (
        tempfile.TemporaryDirectory() as folder,
        serve_overpass(FakeServer(recorded=recorded_responses(words.folder))) as server,
    ):
        arguments = (server.url, "benchmark (me@example.org)", 0.0, radius, Path(folder))
        by_server = measure("overpass", Overpass(*arguments), index, radius)
        again = measure("overpass, kept answers", Overpass(*arguments), index, radius)
        requests = len(server.queries)
        kept = sum(path.stat().st_size for path in Path(folder).iterdir())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{requests} requests, {kept / 1e6:.1f} MB of answers kept, {memory:.0f} MB at most")
    report = {
        "ours": requests,
        "peer": len(index),
        "ratio": len(index) / requests,
        "units": "requests",
        "join_seconds": by_extract["join"],
        "extract_seconds": sum(by_extract.values()),
        "overpass_seconds": sum(by_server.values()),
        "kept_answers_seconds": sum(again.values()),
        "memory_megabytes": memory,
        "answers_megabytes": kept / 1e6,
        "versions": {"shapely": shapely.__version__},
        "cores": os.cpu_count(),
    }
    print(json.dumps(report))


def repeated_index(folder: Path, patches: int, count: int) -> pd.DataFrame:
    """An index of so many patches in so many zones, on the land that has real answers."""
    ground = [z["lambert93_bounds"] for z in recorded_zones(folder) if z["name"] != "open-sea"]
    side, rows = PATCH_SIZE * PIXEL_SIZE, []
    for number in range(patches):
        zone = number * count // patches
        west, _, _, north = ground[zone % len(ground)]
        place = number - -(-zone * patches // count)  # within its zone
        corner = {
            "origin_x": west + side * (place % 10),
            "origin_y": north - side * (place // 10),
        }
        names = {"patch_id": f"{number:06}", "domain": "D006_2020", "zone": f"Z{zone}_UU"}
        rows.append(names | corner)
    return pd.DataFrame(rows)


def measure(
    name: str, source: Extract | Overpass, index: pd.DataFrame, radius: SearchRadius
) -> dict[str, float]:
    """Seconds to have the zones' knowledge, and to join it to the patches."""
    seconds = {"knowledge": 0.0, "join": 0.0}
    located = []
    for zone, patches in zones_of(index):
        began = time.perf_counter()
        known = source.read_zone(zone)
        read = time.perf_counter()
        located.append((locate(patches, known, radius), known.boundaries))
        seconds["knowledge"] += read - began
        seconds["join"] += time.perf_counter() - read
    began = time.perf_counter()
    name_levels(located)
    seconds["join"] += time.perf_counter() - began
    print(f"{name:24} zones {seconds['knowledge']:6.1f} s, join {seconds['join']:6.1f} s")
    return seconds


if __name__ == "__main__":
    main()
