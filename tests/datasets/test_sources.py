"""raw-patches from archives and folders: real tiles in each layout of FLAIR, and bad archives."""

import hashlib
import io
import json
import os
import shutil
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from aerialdreams.errors import UserError
from aerialdreams.params import Params
from aerialdreams.util import download
from stages import patch_index, raw_patches
from tests.conftest import DATA, changed
from tests.hub import COMMIT, Hub, serve_hub
from tests.server import Site, serve


@pytest.fixture
def site(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(download, "WAIT", 0.001)
    with serve() as running:
        yield running


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return file.getvalue()


def tiles(part: str) -> dict[str, bytes]:
    """The images (`img`) or masks (`msk`) of tests/data, by their path under flair/."""
    root = DATA / "flair"
    return {str(p.relative_to(root)): p.read_bytes() for p in root.glob(f"D*/Z*/{part}/*.tif")}


def fill_storage(site: Site) -> None:
    """IGN's storage: images and labels in trees of their own."""
    images, masks = tiles("img"), tiles("msk")
    test = [name for name in images if name.startswith("D012")]
    metadata = (DATA / "flair/flair-1_metadata_aerial.json").read_bytes()
    site.files |= {
        "flair_aerial_train.zip": zipped(
            {f"flair_aerial_train/{n}": b for n, b in images.items() if n not in test}
        ),
        "flair_labels_train.zip": zipped(
            {f"flair_labels_train/{n}": b for n, b in masks.items() if not n.startswith("D012")}
        ),
        "flair_1_aerial_test.zip": zipped({n: images[n] for n in test}),
        "flair_1_labels_test.zip": zipped({n: b for n, b in masks.items() if n.startswith("D012")}),
        "flair-1_metadata_aerial.zip": zipped({"flair-1_metadata_aerial.json": metadata}),
    }


def full(params: Params, site: Site) -> Params:
    return changed(params, raw_patches={"source": "full", "storage": f"{site.url}/"})


def test_all_of_flair_from_igns_storage(site: Site, params: Params) -> None:
    fill_storage(site)
    site.faults = ["cut 300000", "502"]
    assert raw_patches.main(full(params, site)) == "6 tiles unpacked from 5 archives"
    want = {Path(name).name: body for part in ("img", "msk") for name, body in tiles(part).items()}
    have = {path.name: path.read_bytes() for path in Path("data/raw").rglob("*.tif")}
    assert have == want
    sources = json.loads(Path("data/raw/sources.json").read_text())
    assert sources["files"] == {
        name: hashlib.sha256(site.files[name]).hexdigest() for name in raw_patches.STORED["full"]
    }
    assert not any(path.is_dir() for path in Path("scratch").glob("raw-*"))
    # Nothing is fetched twice, and the same comes out.
    asked = len(site.requests)
    raw_patches.main(full(params, site))
    assert len(site.requests) == asked


def test_the_index_reads_igns_layout(site: Site, params: Params) -> None:
    fill_storage(site)
    raw_patches.main(full(params, site))
    files = sorted(
        path.relative_to("data/raw").as_posix() for path in Path("data/raw").rglob("*.tif")
    )
    assert any(f.startswith("flair_labels_train/flair_labels_train/") for f in files)
    pairs = patch_index.find_pairs(Path("data/raw"), {}, params.dataset_spec)
    rows = [patch_index.check(pair) for pair in pairs]
    assert [row["patch_id"] for row in rows if isinstance(row, dict)] == [
        pair.patch_id for pair in pairs
    ]
    assert len(pairs) == 3


@pytest.fixture
def hub(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The Hugging Face release: a zip for each domain, without a folder for it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(workdir / "hub"))
    root = DATA / "flair"
    with serve_hub(f"datasets/{raw_patches.HUB_DATASET}", monkeypatch) as running:
        for folder in root.glob("D*"):
            members = {"sen/SEN2_data.npy": b"of another task"}
            for path in folder.glob("Z*/*/*.tif"):
                part = "aerial" if path.name.startswith("IMG") else "labels"
                members[f"{part}/{path.parts[-3]}/{path.name}"] = path.read_bytes()
            running.files[f"data/train-val/{folder.name}.zip"] = zipped(members)
        metadata = (root / "flair-1_metadata_aerial.json").read_bytes()
        running.files[raw_patches.HUB_METADATA] = metadata
        running.files["data/flair#2-test/D075_2021.zip"] = b"of another task"
        yield running


def domains_of(hub: Hub) -> list[str]:
    return sorted(Path(name).stem for name in hub.files if name.startswith("data/train-val"))


def some(params: Params, domains: list[str]) -> Params:
    return changed(params, raw_patches={"source": "domains", "domains": domains})


def test_domains_from_hugging_face(hub: Hub, params: Params) -> None:
    domains = domains_of(hub)
    summary = raw_patches.main(some(params, domains))
    assert summary == f"6 tiles unpacked from {len(domains) + 1} archives"
    assert not list(Path("data/raw").rglob("*.npy"))
    origin = json.loads(Path("data/raw/sources.json").read_text())
    assert (origin["repository"], origin["commit"]) == ("IGNF/FLAIR-1-2", COMMIT)
    sha256 = hashlib.sha256(hub.files[f"data/train-val/{domains[0]}.zip"]).hexdigest()
    assert origin["files"][f"{domains[0]}.zip"] == sha256
    metadata = json.loads(Path("data/raw/flair-1_metadata_aerial.json").read_text())
    assert metadata == json.loads((DATA / "flair/flair-1_metadata_aerial.json").read_text())
    for pair in patch_index.find_pairs(Path("data/raw"), metadata, params.dataset_spec):
        row = patch_index.check(pair)
        assert isinstance(row, dict), row
        assert row["group"] in domains
        assert row["date"] == metadata[f"IMG_{pair.patch_id}"]["date"]


def test_a_domain_that_flair_does_not_have(hub: Hub, params: Params) -> None:
    with pytest.raises(UserError, match=r"raw_patches\.domains: D999_2021; the hub has D0"):
        raw_patches.main(some(params, ["D999_2021"]))
    with pytest.raises(UserError, match="none named"):
        raw_patches.main(some(params, []))
    assert not Path("data/raw").exists()


def test_a_folder_is_linked_and_left_as_it_is(
    workdir: Path, params: Params, tmp_path_factory: pytest.TempPathFactory
) -> None:
    disk = tmp_path_factory.mktemp("disk")
    for part in ("img", "msk"):
        for name, body in tiles(part).items():
            path = disk / f"flair_1_toy_{part}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
    metadata = (DATA / "flair/flair-1_metadata_aerial.json").read_text()
    (disk / "flair_toy_metadata.json").write_text(metadata)
    before = {path: path.stat().st_mtime_ns for path in disk.rglob("*")}
    linked = changed(params, raw_patches={"source": "folder", "folder": str(disk)})
    assert raw_patches.main(linked) == f"6 tiles of 3 domains in {disk} linked"
    assert all(path.is_symlink() for path in Path("data/raw").rglob("*.tif"))
    assert len(patch_index.find_pairs(Path("data/raw"), {}, params.dataset_spec)) == 3
    raw_patches.main(linked)  # again: what was linked is not touched
    assert {path: path.stat().st_mtime_ns for path in disk.rglob("*")} == before
    with pytest.raises(UserError, match=r"raw_patches\.folder: 'nowhere' is not a folder"):
        raw_patches.main(changed(params, raw_patches={"source": "folder", "folder": "nowhere"}))
    Path("empty").mkdir()
    with pytest.raises(UserError, match=r"no IMG_nnnnnn\.tif"):
        raw_patches.main(changed(params, raw_patches={"source": "folder", "folder": "empty"}))


def copy_tiles(folder: Path) -> None:
    for part in ("img", "msk"):
        for name, body in tiles(part).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(body)


def of_folder(params: Params, folder: str) -> Params:
    return changed(params, raw_patches={"source": "folder", "folder": folder})


def test_links_to_folders_are_followed_and_upper_case_names_are_taken(
    workdir: Path, params: Params
) -> None:
    copy_tiles(workdir / "disk1")
    domain = sorted((workdir / "disk1").glob("D*"))[0]
    shutil.move(domain, workdir / "disk2")
    domain.symlink_to(workdir / "disk2")
    (workdir / "disk2/loop").symlink_to(workdir / "disk2")
    image = next(path for path in (workdir / "disk2").rglob("IMG_*.tif"))
    image.rename(image.with_suffix(".TIF"))
    assert raw_patches.main(of_folder(params, "disk1")) == "6 tiles of 3 domains in disk1 linked"
    assert len(patch_index.find_pairs(Path("data/raw"), {}, params.dataset_spec)) == 3


@pytest.mark.parametrize("folder", ["data/raw", "data", ".", "data/raw/D004_2021", "link"])
def test_tiles_in_the_place_of_the_output_are_not_touched(
    workdir: Path, params: Params, folder: str
) -> None:
    copy_tiles(Path("data/raw"))
    Path("link").symlink_to("data/raw")
    before = {path: path.read_bytes() for path in Path("data/raw").rglob("*.tif")}
    for source in (of_folder(params, folder), params):  # as params of the sample, too
        with pytest.raises(
            UserError, match=r"data/raw.*(was not written by the pipeline|replaces)"
        ):
            raw_patches.main(source)
    assert {path: path.read_bytes() for path in Path("data/raw").rglob("*.tif")} == before
    assert not any(path.is_symlink() for path in Path("data/raw").rglob("*"))
    shutil.move("data/raw", "mine")
    raw_patches.main(of_folder(params, "mine"))
    # Nor are they by links that lead back into the output, or files put there afterwards.
    Path("back").mkdir()
    for path in Path("data/raw").rglob("*.tif"):
        (Path("back") / path.name).symlink_to(path.absolute())
    shutil.rmtree("mine")
    copy_tiles(Path("data/raw/mine"))
    with pytest.raises(UserError, match=r"replaces"):
        raw_patches.main(of_folder(params, "data/raw/mine"))
    assert len(list(Path("data/raw/mine").rglob("*.tif"))) == 6


def test_other_files_in_the_output_are_kept(workdir: Path, params: Params) -> None:
    sample = {"seed": 1, "zone_side": 1, "zones": {"D014_2020": ["Z1_UA"]}}
    params = changed(params, raw_patches={"sample": sample})
    raw_patches.main(params)
    Path("data/raw/france.osm.pbf").write_bytes(b"my extract")
    with pytest.raises(UserError, match=r"data/raw/france\.osm\.pbf: was not written by the pipe"):
        raw_patches.main(params)
    assert Path("data/raw/france.osm.pbf").exists()


def link(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        member = zipfile.ZipInfo(name)
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    return file.getvalue()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (zipped({"../../IMG_000001.tif": b"x"}), "would be written outside its folder"),
        (zipped({"/IMG_000001.tif": b"x"}), "would be written outside its folder"),
        (link("Z1_UA/IMG_000001.tif"), "is a link"),
        (b"PK\x03\x04 cut", "not a complete zip file"),
    ],
)
def test_archives_that_are_not_unpacked(workdir: Path, body: bytes, message: str) -> None:
    Path("bad.zip").write_bytes(body)
    with pytest.raises(UserError, match=rf"bad\.zip: .*{message}"):
        raw_patches.look_into(Path("bad.zip"), Path("raw/bad"))
    assert os.listdir() == ["bad.zip"]  # noqa: PTH208


def test_a_damaged_member_is_named(workdir: Path) -> None:
    body = bytearray(zipped({"Z1_UA/IMG_000001.tif": b"a" * 1000}))
    body[200] ^= 1
    Path("bad.zip").write_bytes(bytes(body))
    files, size = raw_patches.look_into(Path("bad.zip"), Path("raw/bad"))
    assert size == 1000
    with pytest.raises(UserError, match=r"bad\.zip: Z1_UA/IMG_000001\.tif is damaged \(Bad CRC"):
        raw_patches.unpack(raw_patches.Members(Path("bad.zip"), files))
    assert not list(Path("raw").rglob("*.*"))
