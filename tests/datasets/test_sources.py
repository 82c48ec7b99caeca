"""raw-patches from archives and folders: real tiles in each layout of FLAIR, and bad archives."""

import hashlib
import io
import json
import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from aerialdreams.errors import UserError, WorkError
from aerialdreams.params import Params
from aerialdreams.util import download
from stages import patch_index, raw_patches
from tests.conftest import changed
from tests.server import Site, serve

HUB = "datasets/IGNF/FLAIR-1-2/resolve/main"
LISTING = "api/datasets/IGNF/FLAIR-1-2/tree/main"


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


def tiles(shared: Path, part: str) -> dict[str, bytes]:
    """The real images (`img`) or masks (`msk`), by their path under shared/data/flair."""
    root = shared / "flair"
    return {str(p.relative_to(root)): p.read_bytes() for p in root.glob(f"D*/Z*/{part}/*.tif")}


def fill_storage(site: Site, shared: Path) -> None:
    """IGN's storage: images and labels in trees of their own."""
    images, masks = tiles(shared, "img"), tiles(shared, "msk")
    test = [name for name in images if name.startswith("D012")]
    metadata = (shared / "flair/flair-1_metadata_aerial.json").read_bytes()
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


def test_all_of_flair_from_igns_storage(site: Site, shared: Path, params: Params) -> None:
    fill_storage(site, shared)
    site.faults = ["cut 300000", "502"]
    assert raw_patches.main(full(params, site)) == "6 tiles unpacked from 5 archives"
    want = {
        Path(name).name: body
        for part in ("img", "msk")
        for name, body in tiles(shared, part).items()
    }
    have = {path.name: path.read_bytes() for path in Path("data/raw").rglob("*.tif")}
    assert have == want
    sources = json.loads(Path("data/raw/sources.json").read_text())
    assert [s["sha256"] for s in sources] == [
        hashlib.sha256(site.files[name]).hexdigest() for name in raw_patches.STORED["full"]
    ]
    assert not any(path.is_dir() for path in Path("scratch").glob("raw-*"))
    # Nothing is fetched twice, and the same comes out.
    asked = len(site.requests)
    raw_patches.main(full(params, site))
    assert len(site.requests) == asked


def test_the_index_reads_igns_layout(site: Site, shared: Path, params: Params) -> None:
    fill_storage(site, shared)
    raw_patches.main(full(params, site))
    files = sorted(
        path.relative_to("data/raw").as_posix() for path in Path("data/raw").rglob("*.tif")
    )
    assert any(f.startswith("flair_labels_train/flair_labels_train/") for f in files)
    pairs = patch_index.find_pairs(Path("data/raw"), {})
    rows = [patch_index.check(pair) for pair in pairs]
    assert [row["patch_id"] for row in rows if isinstance(row, dict)] == [
        pair.patch_id for pair in pairs
    ]
    assert len(pairs) == 3


def fill_hub(site: Site, shared: Path) -> list[str]:
    """The Hugging Face release, a zip a domain without a folder for it; gives the domains."""
    root = shared / "flair"
    domains = sorted(path.name for path in root.glob("D*"))
    listing = []
    for domain in domains:
        members = {"sen/SEN2_data.npy": b"not wanted"}
        for path in (root / domain).glob("Z*/*/*.tif"):
            part = "aerial" if path.name.startswith("IMG") else "labels"
            members[f"{part}/{path.parts[-3]}/{path.name}"] = path.read_bytes()
        body = zipped(members)
        site.files[f"{HUB}/data/train-val/{domain}.zip"] = body
        listing.append(
            {
                "type": "file",
                "path": f"data/train-val/{domain}.zip",
                "size": len(body),
                "lfs": {"oid": hashlib.sha256(body).hexdigest(), "size": len(body)},
            }
        )
    metadata = (root / "flair-1_metadata_aerial.json").read_bytes()
    site.files[f"{HUB}/{raw_patches.HUB_METADATA}"] = metadata
    aux = {"type": "file", "path": raw_patches.HUB_METADATA, "size": len(metadata)}
    site.files[f"{LISTING}/data/train-val"] = json.dumps(listing).encode()
    site.files[f"{LISTING}/data/flair#1-test"] = b"[]"
    site.files[f"{LISTING}/aux-data"] = json.dumps([aux]).encode()
    return domains


def some(params: Params, site: Site, domains: list[str]) -> Params:
    return changed(params, raw_patches={"source": "domains", "hub": site.url, "domains": domains})


def test_domains_from_hugging_face(site: Site, shared: Path, params: Params) -> None:
    domains = fill_hub(site, shared)
    summary = raw_patches.main(some(params, site, domains))
    assert summary == f"6 tiles unpacked from {len(domains) + 1} archives"
    assert not list(Path("data/raw").rglob("*.npy"))
    metadata = json.loads(Path("data/raw/flair-1_metadata_aerial.json").read_text())
    assert metadata == json.loads((shared / "flair/flair-1_metadata_aerial.json").read_text())
    for pair in patch_index.find_pairs(Path("data/raw"), metadata):
        row = patch_index.check(pair)
        assert isinstance(row, dict), row
        assert row["domain"] in domains
        assert row["date"] == metadata[f"IMG_{pair.patch_id}"]["date"]


def test_a_domain_that_flair_has_not(site: Site, shared: Path, params: Params) -> None:
    fill_hub(site, shared)
    with pytest.raises(UserError, match=r"raw_patches\.domains: D999_2021; the hub has D0"):
        raw_patches.main(some(params, site, ["D999_2021"]))
    with pytest.raises(UserError, match="none named"):
        raw_patches.main(some(params, site, []))


def test_a_published_hash_is_checked(site: Site, shared: Path, params: Params) -> None:
    domains = fill_hub(site, shared)
    path = f"{HUB}/data/train-val/{domains[0]}.zip"
    site.files[path] = site.files[path][:-1] + b"x"
    with pytest.raises(WorkError, match=rf"{domains[0]}\.zip: what came has sha256"):
        raw_patches.main(some(params, site, domains))
    assert not Path("data/raw").exists()


def test_a_folder_is_linked_and_left_as_it_is(
    workdir: Path, shared: Path, params: Params, tmp_path_factory: pytest.TempPathFactory
) -> None:
    disk = tmp_path_factory.mktemp("disk")
    for part in ("img", "msk"):
        for name, body in tiles(shared, part).items():
            path = disk / f"flair_1_toy_{part}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
    metadata = (shared / "flair/flair-1_metadata_aerial.json").read_text()
    (disk / "flair_toy_metadata.json").write_text(metadata)
    before = {path: path.stat().st_mtime_ns for path in disk.rglob("*")}
    linked = changed(params, raw_patches={"source": "folder", "folder": str(disk)})
    assert raw_patches.main(linked) == f"6 tiles of {disk} linked"
    assert all(path.is_symlink() for path in Path("data/raw").rglob("*.tif"))
    assert len(patch_index.find_pairs(Path("data/raw"), {})) == 3
    raw_patches.main(linked)  # again: what was linked is not touched
    assert {path: path.stat().st_mtime_ns for path in disk.rglob("*")} == before
    with pytest.raises(UserError, match=r"raw_patches\.folder: 'nowhere' is no folder"):
        raw_patches.main(changed(params, raw_patches={"source": "folder", "folder": "nowhere"}))
    Path("data/empty").mkdir()
    with pytest.raises(UserError, match=r"no IMG_nnnnnn\.tif"):
        raw_patches.main(
            changed(params, raw_patches={"source": "folder", "folder": str(workdir / "data/empty")})
        )


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
        (zipped({"../../IMG_000001.tif": b"x"}), "leads out of its folder"),
        (zipped({"/IMG_000001.tif": b"x"}), "leads out of its folder"),
        (link("Z1_UA/IMG_000001.tif"), "is a link"),
        (b"PK\x03\x04 cut", "no whole zip"),
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
