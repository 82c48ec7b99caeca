"""The Overpass backend against a faulty server: it recovers, or fails with one clear message."""

import gzip
import re
import shutil
import time
from pathlib import Path

import pytest

from aerialdreams.errors import UserError, WorkError
from aerialdreams.osm import overpass
from aerialdreams.osm.overpass import Overpass
from aerialdreams.osm.zones import Zone
from aerialdreams.params import Params
from aerialdreams.util.files import dvc_md5
from stages import osm_metadata
from tests.conftest import DATA, changed
from tests.osm.test_osm_metadata import (
    radius_of,
    recorded_patches,
    with_extract,
    with_server,
    write_index,
)
from tests.overpass_server import FakeServer, recorded_zones


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits that were requested, in seconds; time.sleep returns at once."""
    slept: list[float] = []

    class Time:
        monotonic = staticmethod(time.monotonic)

        @staticmethod
        def sleep(seconds: float) -> None:
            if seconds:
                slept.append(seconds)

    monkeypatch.setattr(overpass, "time", Time)
    return slept


@pytest.fixture
def zone() -> Zone:
    """A zone inside one commune."""
    bounds = next(
        z["lambert93_bounds"] for z in recorded_zones(DATA / "osm") if "one-commune" in z["name"]
    )
    return Zone("D006_2020", "Z1_UU", tuple(bounds), "EPSG:2154")


def overpass_of(params: Params, folder: Path) -> Overpass:
    server = params.osm_metadata.overpass
    return Overpass(server.server, server.user_agent, server.pause, radius_of(params), folder)


def source_for(params: Params, server: FakeServer, folder: Path) -> Overpass:
    folder.mkdir(exist_ok=True)
    return overpass_of(with_server(params, server), folder)


@pytest.mark.parametrize(
    ("faults", "least_wait"),
    [
        (["429"], 30),
        (["504", "504", "502"], 2),
        (["html"], 30),
        (["cut"], 2),
        (["reset"], 2),
        (["bad gzip"], 2),
        (["empty"], 2),
        (["silence"], 2),
        (['remark runtime error: Query timed out in "query" at line 3 after 61 seconds.'], 2),
        (["429", "cut", "504", "reset", "empty"], 2),
    ],
)
def test_recovers_from_transient_failures(
    faults: list[str],
    least_wait: float,
    params: Params,
    server: FakeServer,
    zone: Zone,
    tmp_path: Path,
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overpass, "READ_TIMEOUT", 0.5)
    server.faults = list(faults)
    source = source_for(params, server, tmp_path / "answers")
    known = source.read_zone(zone)
    assert [b.name for b in known.boundaries if b.level == 8] == ["Roquefeu"]
    assert len(known.buildings) == 30
    assert len(server.queries) == len(faults) + 1
    assert len(waits) == len(faults) and min(waits) >= least_wait
    (kept,) = (tmp_path / "answers").iterdir()
    assert gzip.decompress(kept.read_bytes()) == server.answer(server.queries[0])
    # A second run requests nothing.
    assert len(source_for(params, server, tmp_path / "answers").read_zone(zone).buildings) == 30
    assert len(server.queries) == len(faults) + 1


@pytest.mark.parametrize("status", ["400", "406", "403"])
def test_refused_query_is_not_repeated(
    status: str, params: Params, server: FakeServer, zone: Zone, tmp_path: Path, waits: list[float]
) -> None:
    server.faults = [status] * 9
    with pytest.raises(UserError, match=rf"refused the query for D006_2020/Z1_UU: HTTP {status}"):
        source_for(params, server, tmp_path).read_zone(zone)
    assert len(server.queries) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["429", "504", "html", "cut", "reset", "bad gzip", "empty"])
def test_lasting_failure_ends_in_one_message_after_few_requests(
    fault: str, params: Params, server: FakeServer, zone: Zone, tmp_path: Path, waits: list[float]
) -> None:
    server.faults = [fault] * 99
    with pytest.raises(
        WorkError, match=r"no complete response for D006_2020/Z1_UU in 6 attempts, the last: "
    ):
        source_for(params, server, tmp_path).read_zone(zone)
    assert len(server.queries) == overpass.ATTEMPTS
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        'runtime error: Query timed out in "recurse" at line 5 after 60 seconds.',
        "runtime error: Query run out of memory using about 64 MB of RAM.",
        "Please do not use this server as a museum.",
    ],
)
def test_partial_responses_are_rejected(
    words: str, params: Params, server: FakeServer, zone: Zone, tmp_path: Path, waits: list[float]
) -> None:
    server.faults = [f"remark {words}"] * 99
    with pytest.raises(WorkError, match=f"even for a sixteenth of it: remark: {words[:30]}"):
        source_for(params, server, tmp_path).read_zone(zone)
    # Two attempts each for the zone, its first quarter, and the first quarter of that.
    assert len(server.queries) == 6
    assert list(tmp_path.iterdir()) == []


def test_zone_too_large_for_the_server_is_split_into_quarters(
    params: Params, server: FakeServer, zone: Zone, tmp_path: Path, waits: list[float]
) -> None:
    whole = source_for(params, server, tmp_path / "whole").read_zone(zone)
    server.max_height, server.queries = 0.006, []
    source = source_for(params, server, tmp_path / "parts")
    parts = source.read_zone(zone)
    assert len(server.queries) == 2 + 4
    assert source.split == 1
    # The response to each quarter covers the whole zone: elements are not duplicated.
    assert len(parts.buildings) == len(whole.buildings) == 30
    assert [b.name for b in parts.boundaries if b.level == 8] == ["Roquefeu"]
    # A run that was interrupted after two quarters requests the other two only.
    for path in sorted((tmp_path / "parts").iterdir())[:2]:
        path.unlink()
    server.queries = []
    source_for(params, server, tmp_path / "parts").read_zone(zone)
    assert len(server.queries) == 2


def test_interrupted_run_continues_and_output_has_the_current_zones(
    params: Params, server: FakeServer, workdir: Path, waits: list[float]
) -> None:
    write_index(recorded_patches())
    server.faults = ["", "", "400"]
    with pytest.raises(UserError, match="HTTP 400"):
        osm_metadata.main(with_server(params, server))
    assert not osm_metadata.OSM_METADATA.exists() and not osm_metadata.OSM_ANSWERS.exists()
    osm_metadata.main(with_server(params, server))
    assert len(server.queries) == 5
    whole = dvc_md5(osm_metadata.OSM_ANSWERS)
    assert len(list(osm_metadata.OSM_ANSWERS.glob("*.gz"))) == 4
    # The output of fewer zones has fewer responses; restoring the zones requests nothing.
    write_index(recorded_patches()[:100])
    osm_metadata.main(with_server(params, server))
    assert len(list(osm_metadata.OSM_ANSWERS.glob("*.gz"))) == 1
    osm_metadata.main(with_extract(params))
    assert [path.name for path in osm_metadata.OSM_ANSWERS.iterdir()] == ["README.md"]
    write_index(recorded_patches())
    osm_metadata.main(with_server(params, server))
    assert len(server.queries) == 5 and dvc_md5(osm_metadata.OSM_ANSWERS) == whole


def test_pulled_responses_are_not_requested(
    params: Params, server: FakeServer, workdir: Path
) -> None:
    """As on another machine: data/osm_answers exists, the scratch folder does not."""
    write_index(recorded_patches())
    osm_metadata.main(with_server(params, server))
    table = osm_metadata.OSM_METADATA.read_bytes()
    shutil.rmtree("scratch")
    server.faults = ["400"] * 9
    osm_metadata.main(with_server(params, server))
    assert osm_metadata.OSM_METADATA.read_bytes() == table


def test_reports_data_of_several_dates(params: Params, server: FakeServer, workdir: Path) -> None:
    write_index(recorded_patches())
    box, body = next(iter(server.recorded.items()))
    server.recorded[box] = body.replace(b"2016-03-05T00:26:02Z", b"2016-04-01T00:00:00Z")
    summary = osm_metadata.main(with_server(params, server))
    assert "2 dates of OpenStreetMap data (2016-03-05, 2016-04-01)" in summary


def test_damaged_response_on_disk_is_named(
    params: Params, server: FakeServer, zone: Zone, tmp_path: Path
) -> None:
    source_for(params, server, tmp_path).read_zone(zone)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])
    with pytest.raises(UserError, match=rf"{kept.name}: damaged .* remove it and run `dvc repro`"):
        source_for(params, server, tmp_path).read_zone(zone)


@pytest.mark.parametrize("server_url", ["https://overpass-api.de/api/interpreter"])
def test_public_server_requires_a_contact_address(
    server_url: str, params: Params, tmp_path: Path
) -> None:
    settings = params.osm_metadata.overpass.model_dump() | {"server": server_url}
    anonymous = changed(params, osm_metadata={"backend": "overpass", "overpass": settings})
    with pytest.raises(UserError, match=r"overpass\.user_agent: 'AerialDreams' contains no"):
        overpass_of(anonymous, tmp_path)
    settings |= {"user_agent": "AerialDreams (me@agency.example)", "pause": 0}
    identified = changed(params, osm_metadata={"backend": "overpass", "overpass": settings})
    assert overpass_of(identified, tmp_path).pause >= 1


def test_requests_are_sequential_with_a_pause(
    params: Params, server: FakeServer, workdir: Path, waits: list[float]
) -> None:
    write_index(recorded_patches())
    settings = with_server(params, server).osm_metadata.overpass.model_dump() | {"pause": 5}
    osm_metadata.main(with_server(params, server, overpass=settings))
    assert len(waits) == 3 and all(4 < wait <= 5 for wait in waits)


def test_query_has_the_statements_of_the_recorded_query(params: Params, shared: Path) -> None:
    """A real server has answered every statement of our query, on larger areas."""
    bounds = next(
        z["lambert93_bounds"] for z in recorded_zones(shared / "osm") if "la-turbie" in z["name"]
    )
    text = overpass.query(Zone("D006_2020", "Z1_UU", tuple(bounds), "EPSG:2154"), radius_of(params))
    recorded = (shared / "osm/overpass/one-commune-la-turbie.overpassql").read_text()
    boxes = re.compile(r"\([-\d.]+(?:,[-\d.]+)+\)")

    def first_line(text: str) -> list[str]:
        return text.splitlines()[:4]

    assert first_line(text) == first_line(recorded)
    pattern = r'(?:way|rel|node)\["\w+"\](?:\["\w+"\])?'
    statements = re.findall(pattern, boxes.sub("", text))
    assert len(statements) > 5
    for statement in statements:
        plain = statement.replace("node", "nwr").replace("way", "nwr")
        assert statement in recorded or plain in recorded, statement
