"""Downloads from a server that cuts, refuses and lies."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from aerialdreams.errors import UserError, WorkError
from aerialdreams.util import download
from aerialdreams.util.download import fetch, need_space, size_of
from tests.server import Site, serve

BODY = bytes(range(256)) * 12_000  # 3 MB
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(download, "WAIT", 0.001)
    with serve() as running:
        running.files["flair.zip"] = BODY
        yield running


def test_a_file_comes_whole_and_once(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "downloads/flair.zip"
    assert fetch(f"{site.url}/flair.zip", path, len(BODY), SHA256) == SHA256
    assert path.read_bytes() == BODY
    assert fetch(f"{site.url}/flair.zip", path, len(BODY), SHA256) == SHA256
    assert len(site.requests) == 1
    names = {file.name for file in path.parent.iterdir()}
    assert names == {"flair.zip", "flair.zip.sha256"}
    assert (path.parent / "flair.zip.sha256").read_text() == f"{SHA256}  flair.zip\n"


def test_a_cut_download_goes_on_where_it_was(site: Site, tmp_path: Path) -> None:
    site.faults = ["cut 1000000", "503", "reset", "cut 1500000", "429"]
    fetch(f"{site.url}/flair.zip", tmp_path / "flair.zip")
    assert (tmp_path / "flair.zip").read_bytes() == BODY
    ranges = [wanted for _, _, wanted in site.requests]
    assert ranges[0] is None
    starts = [int(str(wanted).removeprefix("bytes=").rstrip("-")) for wanted in ranges[1:]]
    assert starts == sorted(starts)
    assert len(starts) == 5
    assert starts[-1] >= 2_000_000


def test_a_run_goes_on_with_what_another_left(site: Site, tmp_path: Path) -> None:
    site.faults = ["cut 2000000", *["reset"] * 100]
    with pytest.raises(WorkError, match=r"flair\.zip: .*8 times in a row; what has arrived"):
        fetch(f"{site.url}/flair.zip", tmp_path / "flair.zip")
    assert not (tmp_path / "flair.zip").exists()
    came = (tmp_path / "flair.zip.part").stat().st_size
    assert came > 1_000_000
    site.faults = []
    fetch(f"{site.url}/flair.zip", tmp_path / "flair.zip")
    assert site.requests[-1][2] == f"bytes={came}-"
    assert (tmp_path / "flair.zip").read_bytes() == BODY


def test_a_server_without_ranges_sends_all_of_it_again(site: Site, tmp_path: Path) -> None:
    site.faults = ["cut 1000000", "no range"]
    fetch(f"{site.url}/flair.zip", tmp_path / "flair.zip")
    assert (tmp_path / "flair.zip").read_bytes() == BODY


def test_a_file_that_changed_meanwhile_is_not_mixed(site: Site, tmp_path: Path) -> None:
    site.faults = ["cut 1000000", *["reset"] * 100]
    with pytest.raises(WorkError):
        fetch(f"{site.url}/flair.zip", tmp_path / "flair.zip")
    site.faults, site.files["flair.zip"] = [], BODY[::-1]
    fetch(f"{site.url}/flair.zip", tmp_path / "flair.zip")
    assert (tmp_path / "flair.zip").read_bytes() == BODY[::-1]


def test_a_whole_part_is_recognised(site: Site, tmp_path: Path) -> None:
    (tmp_path / "flair.zip.part").write_bytes(BODY)
    assert fetch(f"{site.url}/flair.zip", tmp_path / "flair.zip") == SHA256


def test_wrong_bytes_are_thrown_away(site: Site, tmp_path: Path) -> None:
    wrong = hashlib.sha256(b"another").hexdigest()
    with pytest.raises(WorkError, match=f"has sha256 {SHA256}, published is {wrong}"):
        fetch(f"{site.url}/flair.zip", tmp_path / "flair.zip", len(BODY), wrong)
    assert list(tmp_path.iterdir()) == []


def test_wrong_size_and_wrong_address(site: Site, tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=rf"has {len(BODY)} bytes, published are 7"):
        fetch(f"{site.url}/flair.zip", tmp_path / "flair.zip", 7)
    with pytest.raises(UserError, match=r"gone\.zip: the server answers 404"):
        fetch(f"{site.url}/gone.zip", tmp_path / "gone.zip")
    with pytest.raises(UserError, match="404"):
        size_of(f"{site.url}/gone.zip")
    assert size_of(f"{site.url}/flair.zip") == len(BODY)


def test_a_file_put_there_by_hand_is_checked(site: Site, tmp_path: Path) -> None:
    (tmp_path / "flair.zip").write_bytes(BODY)
    assert fetch(f"{site.url}/flair.zip", tmp_path / "flair.zip", len(BODY), SHA256) == SHA256
    (tmp_path / "other.zip").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"other\.zip: is not the file at .* move it away"):
        fetch(f"{site.url}/flair.zip", tmp_path / "other.zip", len(BODY), SHA256)
    assert (tmp_path / "other.zip").read_bytes() == b"something else"
    assert site.requests == []


def test_space_is_asked_for_first(tmp_path: Path) -> None:
    need_space(tmp_path, 1, "fetching")
    with pytest.raises(WorkError, match=r"fetching needs 1000000000\.0 GB, .* GB are free"):
        need_space(tmp_path, 10**18, "fetching")
