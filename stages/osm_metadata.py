"""osm-metadata: where each patch lies and what is there, by OpenStreetMap.

Reads   data/patches.parquet; an extract (.osm.pbf), or an Overpass server's answers
Writes  data/osm_metadata.parquet, see SCHEMA; null where OpenStreetMap has nothing
        data/osm_answers/, the server's answers, so that nobody need ask again

Contains information from OpenStreetMap, © OpenStreetMap contributors, ODbL 1.0.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from aerialdreams.data.credits import OSM_CREDIT
from aerialdreams.data.index import read_index
from aerialdreams.errors import UserError
from aerialdreams.osm.extract import Extract
from aerialdreams.osm.join import locate, name_levels
from aerialdreams.osm.knowledge import LEVELS, SearchRadius, zones_of
from aerialdreams.osm.overpass import Overpass
from aerialdreams.params import Params
from aerialdreams.paths import OSM_ANSWERS, OSM_METADATA
from aerialdreams.pipeline.stage import run_stage, scratch_dir
from aerialdreams.util.files import atomic_file, atomic_folder
from aerialdreams.util.progress import progress
from aerialdreams.util.tables import write_table

LICENCE = f"""\
Answers of an Overpass server, one gzipped JSON for each zone, named by domain, zone and a hash of
server and query. They are made by the stage osm-metadata where osm_metadata.backend is overpass.

{OSM_CREDIT} (https://opendatacommons.org/licenses/odbl/1-0/).
"""

SCHEMA = pa.schema(
    [
        ("patch_id", pa.string()),
        # What holds the patch's centre, from the country to the quartier.
        *((level, pa.string()) for level in LEVELS.values()),
        ("departement_code", pa.string()),  # as INSEE's: 06, 2A, 974
        ("insee", pa.string()),  # of the commune
        ("postcode", pa.string()),
        # Communes that the patch's square touches, the largest share (0 to 1) first.
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
        # What lies in the square: nodes and ways, by key=value, as landuse=vineyard.
        ("features", pa.map_(pa.string(), pa.int32())),
        ("buildings", pa.int32()),  # whose middle lies in it
        ("waterways", pa.list_(pa.string())),  # names
        ("missing", pa.list_(pa.string())),  # levels that every place in France has, not found
        ("backend", pa.string()),
        ("timestamp", pa.string()),  # of OpenStreetMap's data
    ]
)
EVERYWHERE = ("country", "region", "departement", "commune")
SHOWN = ("commune", "road", "place")


def main(params: Params) -> str:
    stage, index = params.osm_metadata, read_index()
    zones = zones_of(index)
    kept = keep_answers(scratch_dir() / OSM_ANSWERS.name)
    radius = SearchRadius(stage.max_road_distance, stage.max_place_distance)
    source: Extract | Overpass
    if stage.backend == "overpass":
        server = stage.overpass
        source = Overpass(server.server, server.user_agent, server.pause, radius, kept)
    else:
        source = Extract(Path(stage.extract), [zone for zone, _ in zones], radius)
    located, empty, cut = [], [], set[str]()
    for zone, patches in progress(zones, "zones located", "zones", len(zones)):
        known = source.zone(zone)
        located.append((locate(patches, known, radius), known.boundaries))
        cut.update(known.cut)
        if known.empty:
            empty.append(str(zone))
    if len(empty) == len(zones):
        raise UserError(
            f"osm_metadata.backend {stage.backend}: knows nothing of any zone, from {empty[0]} on;"
            " is its data of another part of the world?"
        )
    name_levels(located)
    by_patch = {row["patch_id"]: row for rows, _ in located for row in rows}
    rows = [by_patch[patch_id] for patch_id in index["patch_id"]]
    for row in rows:
        row["backend"] = stage.backend
        row["missing"] = [level for level in EVERYWHERE if row.get(level) is None]
    write_table(OSM_METADATA, rows, SCHEMA, OSM_CREDIT)
    asked, used = "", set[Path]()
    if isinstance(source, Overpass):
        asked, used = f"; {source.requests} requests, {source.split} zones in quarters", source.used
    else:
        cut |= source.cut
    with atomic_folder(OSM_ANSWERS) as folder:
        (folder / "README.md").write_text(LICENCE, encoding="utf-8")
        for path in sorted(used):
            shutil.copyfile(path, folder / path.name)
    return (
        f"{len(rows)} patches in {len(zones)} zones located, {_found(rows)}{asked}"
        + _report("zones of which OpenStreetMap has nothing", empty)
        + _report("boundaries with gaps, as at an extract's edge, left out", sorted(cut))
        + _report("departements other than the domain's", _strangers(rows, index["domain"]))
        + _report("days of data", _days(rows))
    )


def keep_answers(kept: Path) -> Path:
    """Add the answers of an earlier run, or pulled ones, to those of runs that did not end.

    The stage's output has those that it needs and no others, whatever was asked before; none is
    thrown away, for to ask again is slow and rude.
    """
    kept.mkdir(parents=True, exist_ok=True)
    for path in OSM_ANSWERS.glob("*.json.gz"):
        with atomic_file(kept / path.name) as partial:
            shutil.copyfile(path, partial)
    return kept


def _found(rows: list[dict[str, Any]]) -> str:
    counts = {key: sum(row.get(key) is not None for row in rows) for key in SHOWN}
    return ", ".join(f"{count} with a {key}" for key, count in counts.items())


def _strangers(rows: list[dict[str, Any]], domains: Iterable[str]) -> list[str]:
    """Where OSM's departement is not the one in the domain's name: D006_2020 says 06."""
    found = set()
    for row, domain in zip(rows, domains, strict=True):
        named = domain[1:4].removeprefix("0")
        if row["departement_code"] not in (None, named):
            found.add(f"{domain} in {row['departement_code']}")
    return sorted(found)


def _days(rows: list[dict[str, Any]]) -> list[str]:
    """The days of the zones' data, where there are several."""
    days = sorted({row["timestamp"][:10] for row in rows if row["timestamp"]})
    return days if len(days) > 1 else []


def _report(what: str, names: list[str]) -> str:
    """A part of the summary line: how many, and the first few."""
    if not names:
        return ""
    few = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"; {len(names)} {what} ({few})"


if __name__ == "__main__":
    run_stage("osm-metadata", __doc__, main)
