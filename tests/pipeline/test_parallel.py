"""Per-patch work on local processes and on a Dask cluster: same bytes, whoever is lost."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aerialdreams.errors import UserError, WorkError
from aerialdreams.params import Params
from aerialdreams.pipeline.parallel import parallel_map
from aerialdreams.util.files import dvc_md5
from aerialdreams.util.scratch import resumable_folder
from stages import lut_masks, patch_index, tiff_to_png
from tests.conftest import ROOT, changed

COPIES = 25  # of each real patch


@pytest.fixture
def many(raw: Path, params: Params) -> Params:
    """The real patches, many times under other numbers, indexed."""
    for path in sorted(raw.rglob("*.tif")):
        for copy in range(COPIES):
            number = int(path.stem[4:]) + 100_000 * (copy % 9) + copy // 9
            target = path.with_name(f"{path.stem[:4]}{number:06d}.tif")
            if not target.exists():
                shutil.copyfile(path, target)
    domains = {"validation_groups": ["D004_2021"], "test_groups": ["D051_2019"]}
    ready = changed(params, patch_index=domains)
    patch_index.main(ready)
    return ready


def dask(*words: str, folder: Path) -> subprocess.Popen[bytes]:
    """A scheduler or worker that stands in another folder than the project."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "DASK_DISTRIBUTED__COMM__RETRY__COUNT": "3",
    }
    command = [sys.executable, "-m", "dask", *words]
    with (folder / f"{words[0]}.log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list]]:
    """A Dask scheduler and two workers, each a process of its own."""
    folder = tmp_path_factory.mktemp("dask")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    scheduler = dask(
        "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard", folder=folder
    )
    options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1")
    workers = [dask("worker", address, *options, folder=folder) for _ in range(2)]
    from distributed import Client

    with Client(address, timeout=60, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
    yield address, workers
    for process in (*workers, scheduler):
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_cluster_makes_the_same_bytes_though_a_worker_dies(
    many: Params, cluster: tuple[str, list]
) -> None:
    address, workers = cluster
    tiff_to_png.main(many)
    lut_masks.main(many)
    local = dvc_md5(Path("data/images")), dvc_md5(Path("data/masks"))
    spread = changed(many, runtime={"scheduler": address})
    shutil.rmtree("data/images")

    def kill() -> None:
        while len(list(Path("scratch").glob("images-*/*.png"))) < 8:
            time.sleep(0.01)
        workers[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    tiff_to_png.main(spread)
    killer.join()
    assert workers[0].wait(10) == -9
    lut_masks.main(spread)
    assert (dvc_md5(Path("data/images")), dvc_md5(Path("data/masks"))) == local


def test_a_bad_tile_is_named_from_afar(many: Params, cluster: tuple[str, list]) -> None:
    tile = next(Path("data/raw").rglob("IMG_*.tif"))
    tile.write_bytes(tile.read_bytes()[:2000])
    with pytest.raises(UserError, match=rf"{tile.name}: cannot be read"):
        tiff_to_png.main(changed(many, runtime={"scheduler": cluster[0]}))


def test_a_scheduler_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(
            WorkError, match=r"runtime\.scheduler: tcp://127\.0\.0\.1:9 cannot be reached"
        ),
    ):
        list(parallel_map(str, [1], 1, "numbers", scheduler="tcp://127.0.0.1:9"))


def test_unfinished_output_is_continued_under_its_key_only(workdir: Path) -> None:
    scratch, place = workdir / "scratch", workdir / "data/images"
    scratch.mkdir()

    def fill(key: str, name: str, fails: bool) -> None:
        with resumable_folder(place, scratch, key) as folder:
            (folder / name).write_text(name)
            (folder / "half.partial").write_text("half")
            if fails:
                raise KeyboardInterrupt

    for key, name in (("one", "a"), ("two", "b")):
        with pytest.raises(KeyboardInterrupt):
            fill(key, name, fails=True)
    assert not place.exists()
    fill("two", "c", fails=False)
    assert sorted(path.name for path in place.iterdir()) == ["b", "c"]
    # The other experiment's work is still there.
    assert [path.name for path in scratch.iterdir() if path.is_dir()] == ["images-one"]
