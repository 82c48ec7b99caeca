"""The Overpass backend against a server that misbehaves: right in the end, or one clear message."""

import gzip
import re
import shutil
import time
from pathlib import Path

import pytest

from aerialdreams.errors import UserError, WorkError
from aerialdreams.osm import overpass
from aerialdreams.osm.knowledge import Zone
from aerialdreams.osm.overpass import Overpass
from aerialdreams.params import Params
from aerialdreams.util.files import dvc_md5
from stages import osm_metadata
from tests.conftest import DATA, changed
from tests.osm.test_osm_metadata import (
    of_extract,
    of_server,
    radius_of,
    recorded_patches,
    write_index,
)
from tests.overpass_server import Answers, zones


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were to be slept, which nobody sleeps."""
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
    bounds = next(z["lambert93_bounds"] for z in zones(DATA / "osm") if "one-commune" in z["name"])
    return Zone("D006_2020", "Z1_UU", tuple(bounds))


def overpass_of(params: Params, folder: Path) -> Overpass:
    server = params.osm_metadata.overpass
    return Overpass(server.server, server.user_agent, server.pause, radius_of(params), folder)


def asked(params: Params, server: Answers, folder: Path) -> Overpass:
    folder.mkdir(exist_ok=True)
    return overpass_of(of_server(params, server), folder)


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
def test_what_passes_ends_in_the_right_data(
    faults: list[str],
    least_wait: float,
    params: Params,
    server: Answers,
    zone: Zone,
    tmp_path: Path,
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overpass, "READ", 0.5)
    server.faults = list(faults)
    source = asked(params, server, tmp_path / "answers")
    known = source.zone(zone)
    assert [b.name for b in known.boundaries if b.level == 8] == ["Roquefeu"]
    assert len(known.buildings) == 30
    assert len(server.queries) == len(faults) + 1
    assert len(waits) == len(faults) and min(waits) >= least_wait
    (kept,) = (tmp_path / "answers").iterdir()
    assert gzip.decompress(kept.read_bytes()) == server.answer(server.queries[0])
    # A second run asks nothing.
    assert len(asked(params, server, tmp_path / "answers").zone(zone).buildings) == 30
    assert len(server.queries) == len(faults) + 1


@pytest.mark.parametrize("status", ["400", "406", "403"])
def test_a_refused_query_is_not_asked_again(
    status: str, params: Params, server: Answers, zone: Zone, tmp_path: Path, waits: list[float]
) -> None:
    server.faults = [status] * 9
    with pytest.raises(UserError, match=rf"refuses the query for D006_2020/Z1_UU: HTTP {status}"):
        asked(params, server, tmp_path).zone(zone)
    assert len(server.queries) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["429", "504", "html", "cut", "reset", "bad gzip", "empty"])
def test_what_does_not_pass_is_one_message_and_no_storm(
    fault: str, params: Params, server: Answers, zone: Zone, tmp_path: Path, waits: list[float]
) -> None:
    server.faults = [fault] * 99
    with pytest.raises(WorkError, match=r"no answer for D006_2020/Z1_UU in 6 attempts, the last: "):
        asked(params, server, tmp_path).zone(zone)
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
def test_half_an_answer_is_never_kept(
    words: str, params: Params, server: Answers, zone: Zone, tmp_path: Path, waits: list[float]
) -> None:
    server.faults = [f"remark {words}"] * 99
    with pytest.raises(WorkError, match=f"not even for a sixteenth of it: remark: {words[:30]}"):
        asked(params, server, tmp_path).zone(zone)
    assert len(server.queries) == 6  # twice each the zone, its first quarter, and of that the first
    assert list(tmp_path.iterdir()) == []


def test_a_zone_too_big_is_asked_in_quarters(
    params: Params, server: Answers, zone: Zone, tmp_path: Path, waits: list[float]
) -> None:
    whole = asked(params, server, tmp_path / "whole").zone(zone)
    server.too_big, server.queries = 0.006, []
    source = asked(params, server, tmp_path / "parts")
    parts = source.zone(zone)
    assert len(server.queries) == 2 + 4
    assert source.split == 1
    # Each quarter was answered with what lies in all of the zone: nothing is there twice.
    assert len(parts.buildings) == len(whole.buildings) == 30
    assert [b.name for b in parts.boundaries if b.level == 8] == ["Roquefeu"]
    # A run that was cut after two quarters asks for the other two, and not for the whole again.
    for path in sorted((tmp_path / "parts").iterdir())[:2]:
        path.unlink()
    server.queries = []
    asked(params, server, tmp_path / "parts").zone(zone)
    assert len(server.queries) == 2


def test_an_interrupted_run_goes_on_and_the_output_has_what_it_needs(
    params: Params, server: Answers, workdir: Path, waits: list[float]
) -> None:
    write_index(recorded_patches())
    server.faults = ["", "", "400"]
    with pytest.raises(UserError, match="HTTP 400"):
        osm_metadata.main(of_server(params, server))
    assert not osm_metadata.OSM_METADATA.exists() and not osm_metadata.OSM_ANSWERS.exists()
    osm_metadata.main(of_server(params, server))
    assert len(server.queries) == 5
    whole = dvc_md5(osm_metadata.OSM_ANSWERS)
    assert len(list(osm_metadata.OSM_ANSWERS.glob("*.gz"))) == 4
    # Fewer zones need fewer; those of an earlier run come back without a question.
    write_index(recorded_patches()[:100])
    osm_metadata.main(of_server(params, server))
    assert len(list(osm_metadata.OSM_ANSWERS.glob("*.gz"))) == 1
    osm_metadata.main(of_extract(params))
    assert [path.name for path in osm_metadata.OSM_ANSWERS.iterdir()] == ["README.md"]
    write_index(recorded_patches())
    osm_metadata.main(of_server(params, server))
    assert len(server.queries) == 5 and dvc_md5(osm_metadata.OSM_ANSWERS) == whole


def test_pulled_answers_ask_nothing(params: Params, server: Answers, workdir: Path) -> None:
    """As on another machine: data/osm_answers is there, the scratch folder is not."""
    write_index(recorded_patches())
    osm_metadata.main(of_server(params, server))
    table = osm_metadata.OSM_METADATA.read_bytes()
    shutil.rmtree("scratch")
    server.faults = ["400"] * 9
    osm_metadata.main(of_server(params, server))
    assert osm_metadata.OSM_METADATA.read_bytes() == table


def test_zones_of_several_days_are_told(params: Params, server: Answers, workdir: Path) -> None:
    write_index(recorded_patches())
    box, body = next(iter(server.recorded.items()))
    server.recorded[box] = body.replace(b"2016-03-05T00:26:02Z", b"2016-04-01T00:00:00Z")
    summary = osm_metadata.main(of_server(params, server))
    assert "2 days of data (2016-03-05, 2016-04-01)" in summary


def test_a_damaged_answer_on_disk_is_named(
    params: Params, server: Answers, zone: Zone, tmp_path: Path
) -> None:
    asked(params, server, tmp_path).zone(zone)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])
    with pytest.raises(UserError, match=rf"{kept.name}: damaged .* remove it and `dvc repro`"):
        asked(params, server, tmp_path).zone(zone)


@pytest.mark.parametrize("server_url", ["https://overpass-api.de/api/interpreter"])
def test_a_public_server_is_not_asked_by_nobody(
    server_url: str, params: Params, tmp_path: Path
) -> None:
    settings = params.osm_metadata.overpass.model_dump() | {"server": server_url}
    nobody = changed(params, osm_metadata={"backend": "overpass", "overpass": settings})
    with pytest.raises(UserError, match=r"overpass\.user_agent: 'AerialDreams' names nobody"):
        overpass_of(nobody, tmp_path)
    settings |= {"user_agent": "AerialDreams (me@agency.example)", "pause": 0}
    named = changed(params, osm_metadata={"backend": "overpass", "overpass": settings})
    assert overpass_of(named, tmp_path).pause >= 1


def test_requests_come_one_by_one_with_a_pause(
    params: Params, server: Answers, workdir: Path, waits: list[float]
) -> None:
    write_index(recorded_patches())
    settings = of_server(params, server).osm_metadata.overpass.model_dump() | {"pause": 5}
    osm_metadata.main(of_server(params, server, overpass=settings))
    assert len(waits) == 3 and all(4 < wait <= 5 for wait in waits)


def test_the_query_asks_what_the_recorded_one_asked(params: Params, shared: Path) -> None:
    """Statement by statement: nothing that a real server has not answered, but narrower."""
    bounds = next(z["lambert93_bounds"] for z in zones(shared / "osm") if "la-turbie" in z["name"])
    ours = overpass.query(Zone("D006_2020", "Z1_UU", tuple(bounds)), radius_of(params))
    theirs = (shared / "osm/overpass/one-commune-la-turbie.overpassql").read_text()
    boxes = re.compile(r"\([-\d.]+(?:,[-\d.]+)+\)")

    def first_line(text: str) -> list[str]:
        return text.splitlines()[:4]

    assert first_line(ours) == first_line(theirs)
    pattern = r'(?:way|rel|node)\["\w+"\](?:\["\w+"\])?'
    statements = re.findall(pattern, boxes.sub("", ours))
    assert len(statements) > 5
    for statement in statements:
        plain = statement.replace("node", "nwr").replace("way", "nwr")
        assert statement in theirs or plain in theirs, statement
