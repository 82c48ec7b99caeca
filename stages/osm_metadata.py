"""osm-metadata: each patch's commune, nearest road and place, and features, from OpenStreetMap.

Reads   data/patches.parquet; an extract (.osm.pbf), an Overpass server, or nothing
Writes  data/osm_metadata.parquet, see SCHEMA; null where OpenStreetMap has nothing
        data/osm_answers/, the server's responses, so that a zone is requested only once

Contains information from OpenStreetMap, © OpenStreetMap contributors, ODbL 1.0.
"""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from aerialdreams.data.credits import OSM_CREDIT
from aerialdreams.data.flair import DOMAIN
from aerialdreams.data.index import read_index
from aerialdreams.errors import UserError
from aerialdreams.osm.extract import Extract
from aerialdreams.osm.features import LEVELS
from aerialdreams.osm.join import empty_row, locate, name_levels
from aerialdreams.osm.overpass import Overpass
from aerialdreams.osm.zones import SearchRadius, zones_of
from aerialdreams.params import Params
from aerialdreams.paths import OSM_ANSWERS, OSM_METADATA
from aerialdreams.pipeline.stage import run_stage, scratch_dir
from aerialdreams.util.files import atomic_file, atomic_folder
from aerialdreams.util.progress import progress
from aerialdreams.util.tables import write_table

LICENCE = f"""\
Answers of an Overpass server, one gzipped JSON for each zone, named by group, zone and a hash of
server and query. They are made by the stage osm-metadata where osm_metadata.backend is overpass.

{OSM_CREDIT} (https://opendatacommons.org/licenses/odbl/1-0/).
"""

SCHEMA = pa.schema(
    [
        ("patch_id", pa.string()),
        # The areas that contain the patch's centre, from country to quartier.
        *((level, pa.string()) for level in LEVELS.values()),
        ("departement_code", pa.string()),  # INSEE's: 06, 2A, 974
        ("insee", pa.string()),  # of the commune
        ("postcode", pa.string()),
        # Communes that the patch's square touches, by share (0 to 1), largest first.
        (
            "communes",
            pa.list_(
                pa.struct(
                    [("commune", pa.string()), ("insee", pa.string()), ("share", pa.float64())]
                )
            ),
        ),
        ("road", pa.string()),  # nearest to the centre
        ("road_distance", pa.float64()),  # metres
        ("place", pa.string()),
        ("place_kind", pa.string()),
        ("place_distance", pa.float64()),
        # Number of nodes and ways that touch the square, by tag, such as landuse=vineyard.
        ("features", pa.map_(pa.string(), pa.int32())),
        ("buildings", pa.int32()),  # whose centre lies in the square
        ("waterways", pa.list_(pa.string())),  # names
        ("missing", pa.list_(pa.string())),  # levels of EVERYWHERE that are null
        ("backend", pa.string()),
        ("timestamp", pa.string()),  # of OpenStreetMap's data
    ]
)
EVERYWHERE = ("country", "region", "departement", "commune")  # levels that cover all of France
COUNTED = ("commune", "road", "place")  # columns in the summary line


def main(params: Params) -> str:
    stage, index = params.osm_metadata, read_index()
    zones = [] if stage.backend == "none" else zones_of(index)
    responses = collect_responses(scratch_dir() / OSM_ANSWERS.name)
    radius = SearchRadius(stage.max_road_distance, stage.max_place_distance)
    source: Extract | Overpass | None = None
    if not zones:
        pass
    elif stage.backend == "overpass":
        server = stage.overpass
        source = Overpass(server.server, server.user_agent, server.pause, radius, responses)
    else:
        source = Extract(Path(stage.extract), [zone for zone, _ in zones], radius)
    zone_rows, empty, cut = [], [], set[str]()
    for zone, patches in progress(zones, "zones located", "zones", len(zones)):
        assert source
        features = source.read_zone(zone)
        zone_rows.append((locate(patches, features, radius, zone.metre), features.boundaries))
        cut.update(features.cut)
        if features.empty:
            empty.append(str(zone))
    if zones and len(empty) == len(zones):
        raise UserError(
            f"osm_metadata.backend {stage.backend}: has no data for any zone, the first is"
            f" {empty[0]}; use data that covers the zones"
        )
    name_levels(zone_rows)
    row_of = {row["patch_id"]: row for rows, _ in zone_rows for row in rows}
    rows = [row_of.get(patch_id) or empty_row(patch_id) for patch_id in index["patch_id"]]
    for row in rows:
        row["backend"] = stage.backend
        row["missing"] = [level for level in EVERYWHERE if row.get(level) is None]
    write_table(OSM_METADATA, rows, SCHEMA, OSM_CREDIT)
    requests, used = "", set[Path]()
    if isinstance(source, Overpass):
        requests = f"; {source.requests} requests, {source.split} zones split into quarters"
        used = source.used
    elif source:
        cut |= source.cut
    with atomic_folder(OSM_ANSWERS) as folder:
        (folder / "README.md").write_text(LICENCE, encoding="utf-8")
        for path in sorted(used):
            shutil.copyfile(path, folder / path.name)
    return (
        f"{len(rows)} patches in {len(zones)} zones located, {_counts(rows)}{requests}"
        + _warning("zones without OpenStreetMap data", empty)
        + _warning("boundaries with gaps left out", sorted(cut))
        + _warning("départements that differ from the domain's", _mismatches(rows, index["group"]))
        + _warning("dates of OpenStreetMap data", _different_dates(rows))
    )


def collect_responses(folder: Path) -> Path:
    """Copy the responses in the stage's output, as pulled or written by the last run, to a folder.

    The output has only the responses for the current zones. The folder keeps all of them, also
    those of interrupted runs, so that no response is requested twice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in OSM_ANSWERS.glob("*.json.gz"):
        with atomic_file(folder / path.name) as partial:
            shutil.copyfile(path, partial)
    return folder


def _counts(rows: list[dict[str, Any]]) -> str:
    counts = {key: sum(row.get(key) is not None for row in rows) for key in COUNTED}
    return ", ".join(f"{count} with a {key}" for key, count in counts.items())


def _mismatches(rows: list[dict[str, Any]], groups: Iterable[str]) -> list[str]:
    """Where OSM's département is not that of FLAIR's domain: the name D006_2020 implies 06."""
    mismatches = set()
    for row, domain in zip(rows, groups, strict=True):
        expected = domain[1:4].removeprefix("0")
        if re.fullmatch(DOMAIN, domain) and row.get("departement_code") not in (None, expected):
            mismatches.add(f"{domain} in {row['departement_code']}")
    return sorted(mismatches)


def _different_dates(rows: list[dict[str, Any]]) -> list[str]:
    """The dates of the zones' data, if there are several."""
    dates = sorted({row["timestamp"][:10] for row in rows if row.get("timestamp")})
    return dates if len(dates) > 1 else []


def _warning(problem: str, names: list[str]) -> str:
    """A part of the summary line: the number of names and the first five of them."""
    if not names:
        return ""
    examples = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"; {len(names)} {problem} ({examples})"


if __name__ == "__main__":
    run_stage("osm-metadata", __doc__, main)
