"""osm-metadata: real data from an extract and from recorded responses of an Overpass server."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import osmium
import pandas as pd
import pyarrow.parquet as pq
import pytest
from rasterio.warp import transform

from aerialdreams.data.index import SPLITS, index_schema, read_index
from aerialdreams.errors import UserError
from aerialdreams.osm.extract import Extract
from aerialdreams.osm.outlines import outlines
from aerialdreams.osm.zones import SearchRadius
from aerialdreams.params import Params
from aerialdreams.paths import INDEX, OSM_METADATA
from aerialdreams.util.tables import read_table, write_table
from stages import osm_metadata
from tests.conftest import DATA, ROOT, changed
from tests.overpass_server import FakeServer, recorded_responses, recorded_zones, serve_overpass

SIDE = 102.4
# How docs/places.md cuts an extract to the zones.
OSMIUM_COMMANDS = (
    "osmium tags-filter france.osm.pbf r/admin_level=2,3,4,6,7 -o osm/levels.osm.pbf",
    "osmium extract -p zones.geojson -s smart -S types=any france.osm.pbf -o osm/zones.osm.pbf",
)


def write_index(patches: list[tuple[str, str, str, float, float]], splits: bool = False) -> None:
    """Write an index of patches (id, domain, zone, north-west corner) covered by buildings.

    All are in the train split; with `splits` the three splits alternate.
    """
    rows = [
        {"patch_id": patch_id, "group": domain, "zone": zone, "origin_x": x, "origin_y": y}
        | {"crs": "EPSG:2154", "extent": 102.4, "longitude": 7.4, "latitude": 43.7}
        | {"pixels": [512 * 512] + [0] * 18, "zone_row": number // 3, "zone_column": number % 3}
        | {"split": SPLITS[number % 3] if splits else "train"}
        for number, (patch_id, domain, zone, x, y) in enumerate(patches)
    ]
    write_table(INDEX, rows, index_schema(19))


def recorded_patches(folder: Path = DATA) -> list[tuple[str, str, str, float, float]]:
    """A hundred patches in each of the four zones with recorded responses."""
    patches = []
    for number, zone in enumerate(recorded_zones(folder / "osm")):
        west, _, _, north = zone["lambert93_bounds"]
        for row in range(10):
            for column in range(10):
                corner = west + column * SIDE, north - row * SIDE
                patches.append(
                    (f"{number:02}{row:02}{column:02}", "D006_2020", f"Z{number}_UU", *corner)
                )
    return patches


def with_extract(params: Params, folder: Path = DATA, **more: Any) -> Params:
    (extract,) = (folder / "osm").glob("*.osm.pbf")
    values = {"backend": "extract", "extract": str(extract)}
    return changed(params, osm_metadata=values | more)


def radius_of(params: Params) -> SearchRadius:
    stage = params.osm_metadata
    return SearchRadius(stage.max_road_distance, stage.max_place_distance)


def with_server(params: Params, server: FakeServer, **more: Any) -> Params:
    overpass = {"server": server.url, "user_agent": "Test (me@example.org)", "pause": 0}
    return changed(params, osm_metadata={"backend": "overpass", "overpass": overpass} | more)


@pytest.mark.parametrize("invented", [True, False])
def test_extract_and_server_agree_on_every_patch(
    invented: bool, workdir: Path, request: pytest.FixtureRequest, params: Params
) -> None:
    folder = DATA if invented else request.getfixturevalue("shared")
    write_index(recorded_patches(folder))
    # The responses contain roads in the zone and places within 1.7 km, nothing farther.
    near = {"max_road_distance": SIDE / 2, "max_place_distance": 1600}
    osm_metadata.main(with_extract(params, folder, **near))
    by_extract = read_table(OSM_METADATA)
    with serve_overpass(FakeServer(recorded=recorded_responses(folder / "osm"))) as server:
        summary = osm_metadata.main(with_server(params, server, **near))
    by_server = read_table(OSM_METADATA)
    assert "400 patches in 4 zones" in summary and "4 requests" in summary
    assert len(server.queries) == 4
    assert server.agents[0] == "Test (me@example.org)"
    # The query that was recorded did not ask for outlines of quartiers; ours does.
    quartier = "Le Port" if invented else "Monte-Carlo"
    assert set(by_extract.loc[by_extract["quartier"].notna(), "quartier"]) == {quartier}
    skipped = {"backend"} if invented else {"backend", "quartier"}
    for column in set(osm_metadata.SCHEMA.names) - skipped:
        assert by_extract[column].astype(str).equals(by_server[column].astype(str)), column
    counts = {"Roquefeu": 140, "Valbrune": 60}
    if not invented:
        counts = {"La Turbie": 110, "Beausoleil": 85, "Monaco": 5}
    assert by_extract["commune"].value_counts().to_dict() == counts


def test_table_of_real_zones(workdir: Path, shared: Path, params: Params) -> None:
    write_index(recorded_patches(shared))
    summary = osm_metadata.main(with_extract(params, shared, max_place_distance=1600))
    rows = read_table(OSM_METADATA).set_index("patch_id")
    town = rows.loc["000505"]
    assert (town["commune"], town["insee"], town["postcode"]) == ("Beausoleil", "06012", "06240")
    assert (town["departement"], town["departement_code"]) == ("Alpes-Maritimes", "06")
    assert (town["arrondissement"], town["region"]) == ("Nice", "Provence-Alpes-Côte d'Azur")
    assert (town["country"], list(town["missing"])) == ("France", [])
    assert town["buildings"] == 10
    # No border of the département crosses this zone: it follows from the communes' codes.
    hill = rows.loc["010505"]
    assert (hill["commune"], hill["departement"]) == ("La Turbie", "Alpes-Maritimes")
    assert pd.isna(hill["arrondissement"])
    # Patches in Monaco have no French areas.
    abroad = rows[rows["commune"] == "Monaco"]
    assert abroad[["country", "departement", "departement_code", "insee"]].isna().all(axis=None)
    on_borders = rows[rows["communes"].map(len) > 1]
    assert len(on_borders) > 5
    for communes in on_borders["communes"]:
        shares = [share["share"] for share in communes]
        assert shares == sorted(shares, reverse=True) and sum(shares) <= 1.0001
    sea, eze = rows.loc["020505"], rows.loc["030505"]
    assert sea[["commune", "road", "place"]].isna().all() and len(sea["features"]) == 0
    assert list(sea["missing"]) == ["country", "region", "departement", "commune"]
    assert pd.isna(eze["commune"]) and (eze["place"], eze["place_kind"]) == ("Èze", "village")
    assert "1 zones without OpenStreetMap data (D006_2020/Z2_UU)" in summary
    assert "boundaries with gaps" in summary and "Alpes-Maritimes" in summary
    notice = pq.read_schema(OSM_METADATA).metadata[b"notice"].decode()
    assert notice == "© OpenStreetMap contributors, ODbL 1.0"
    assert "ODbL" in Path("data/osm_answers/README.md").read_text()


def test_reports_a_departement_that_is_not_the_domains(workdir: Path, params: Params) -> None:
    corner = next(p[3:] for p in recorded_patches() if p[0] == "010505")
    write_index([("000001", "D083_2020", "Z1_UU", *corner)])
    summary = osm_metadata.main(with_extract(params))
    assert "1 départements that differ from the domain's (D083_2020 in 06)" in summary


def test_extract_of_another_area_is_rejected(workdir: Path, params: Params) -> None:
    (x,), (y,) = transform("EPSG:4326", "EPSG:2154", [2.35], [48.85])
    write_index([("000001", "D075_2021", "Z1_UU", x, y)])
    with pytest.raises(UserError, match=r"backend extract: has no data for any zone.*D075_2021"):
        osm_metadata.main(with_extract(params))


def test_several_extracts_equal_one(workdir: Path, params: Params) -> None:
    folder = workdir / "extracts"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.osm.pbf").write_bytes((DATA / "osm/ground.osm.pbf").read_bytes())
    write_index(recorded_patches()[:100])
    osm_metadata.main(with_extract(params))
    from_file = read_table(OSM_METADATA)
    osm_metadata.main(with_extract(params, extract=str(folder)))
    assert read_table(OSM_METADATA).astype(str).equals(from_file.astype(str))


@pytest.mark.parametrize("content", [b"", b"nonsense" * 100, None])
def test_unreadable_extract_is_named(tmp_path: Path, params: Params, content: bytes | None) -> None:
    complete = (DATA / "osm/ground.osm.pbf").read_bytes()
    path = tmp_path / "cut.osm.pbf"
    path.write_bytes(complete[: len(complete) // 2] if content is None else content)
    with pytest.raises(UserError, match=r"cut\.osm\.pbf: not a complete OpenStreetMap file"):
        Extract(path, [], radius_of(params))


def test_missing_extract_is_named(tmp_path: Path, params: Params) -> None:
    with pytest.raises(UserError, match=r"no\.osm\.pbf: not found; set osm_metadata\.extract"):
        Extract(tmp_path / "no.osm.pbf", [], radius_of(params))
    with pytest.raises(UserError, match=r"contains no \.osm\.pbf file; set osm_metadata\.extract"):
        Extract(tmp_path, [], radius_of(params))


@pytest.mark.skipif(not shutil.which("osmium"), reason="osmium-tool is not installed")
def test_extract_cut_as_documented(workdir: Path, shared: Path, params: Params) -> None:
    """An extract that osmium-tool has cut to the zones gives the same table as the whole."""
    patches = recorded_patches(shared)
    write_index([p for p in patches if p[0][:2] in ("00", "01")])
    near = {"max_place_distance": 1600}
    osm_metadata.main(with_extract(params, shared, **near))
    from_whole = read_table(OSM_METADATA)
    (workdir / "osm").mkdir()
    stage = with_extract(params, shared, **near).osm_metadata
    (workdir / "zones.geojson").write_text(outlines(read_index(), 1600))
    for command in OSMIUM_COMMANDS:
        words = command.replace("france.osm.pbf", stage.extract).split()
        subprocess.run(words, check=True, capture_output=True)
    smaller = sum(path.stat().st_size for path in Path("osm").iterdir())
    assert smaller < Path(stage.extract).stat().st_size
    osm_metadata.main(with_extract(params, shared, extract="osm", **near))
    from_cut = read_table(OSM_METADATA)
    assert from_cut.astype(str).equals(from_whole.astype(str))


def test_documentation_has_these_commands() -> None:
    guide = (ROOT / "docs/places.md").read_text()
    assert all(command in guide for command in OSMIUM_COMMANDS)


@pytest.mark.parametrize("declared", [True, False])
def test_history_files_are_rejected(workdir: Path, params: Params, declared: bool) -> None:
    """They hold each version of an object, oldest first; the oldest names would be taken."""
    write_index(recorded_patches())
    (extract,) = (DATA / "osm").glob("*.osm.pbf")
    header = osmium.io.Header()
    header.has_multiple_object_versions = declared
    writer = osmium.SimpleWriter("history.osm.pbf", header=header)
    for element in osmium.FileProcessor(str(extract)):
        if element.is_way() and "highway" in element.tags and "name" in element.tags:
            tags = dict(element.tags) | {"name": "Old name"}
            writer.add(element.replace(tags=tags, version=1))
            element = element.replace(version=2)
        writer.add(element)
    writer.close()
    values = {"backend": "extract", "extract": "history.osm.pbf"}
    with pytest.raises(UserError, match=r"history\.osm\.pbf: has several versions .*time-filter"):
        osm_metadata.main(changed(params, osm_metadata=values))
