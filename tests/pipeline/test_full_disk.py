"""A disk that is full: one message, exit code 1, nothing half-written, and it goes on later."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml

from aerialdreams.params import Params
from tests.conftest import ROOT


@pytest.fixture
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of 1 MB, which holds one PNG of a patch and not three."""
    place = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1000k", "tmpfs", str(place)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no right to mount a tmpfs here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_pictures_on_a_full_disk(indexed: Params, small_disk: Path) -> None:
    Path("params.yaml").write_text(yaml.safe_dump(indexed.model_dump(mode="json")))
    rng = np.random.default_rng(0)
    for path in Path("data/raw").rglob("IMG_*.tif"):  # noise does not compress
        with rasterio.open(path, "r+") as file:
            file.write(rng.integers(0, 256, (5, 512, 512), np.uint8))

    def stage() -> subprocess.CompletedProcess[str]:
        """Run the stage with its scratch folder on the small disk."""
        environment = os.environ | {"DVC_ROOT": str(small_disk), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "stages.tiff_to_png"]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    full = stage()
    assert full.returncode == 1
    assert "No space left on device; free some space and run `dvc repro` again" in full.stderr
    assert "Traceback" not in full.stderr
    assert not Path("data/images").exists()
    assert not list(small_disk.rglob("*.partial"))
    whole = list(small_disk.glob("scratch/images-*/*.png"))
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert stage().returncode == 0
    assert len(list(Path("data/images").glob("*.png"))) == 3
    assert len(whole) < 3
