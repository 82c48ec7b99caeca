"""The HTTP API: images by recipe, edits, uploads, a full queue, hostile requests."""

import base64
import io
import json
import struct
import threading
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import requests
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from rasterio.io import MemoryFile

from aerialdreams.data.images import write_mask
from aerialdreams.params import load_params
from tests.projects import run
from tests.servers import free_port

BUILDING, ROAD, GRASS = 1, 3, 10


def mask_of(side: int = 64) -> NDArray[np.uint8]:
    mask = np.full((side, side), GRASS, np.uint8)
    mask[10:20] = ROAD
    return mask


def encode(mask: NDArray[np.uint8]) -> str:
    return base64.b64encode(mask.tobytes()).decode()


def recipe(mask: NDArray[np.uint8], **values: Any) -> dict[str, Any]:
    return {"width": mask.shape[1], "height": mask.shape[0], "mask": encode(mask)} | values


def finish(server: str, job: dict[str, Any]) -> dict[str, Any]:
    """Wait until a job is over."""
    while job["status"] in ("waiting", "running"):
        time.sleep(0.1)
        job = requests.get(f"{server}/api/jobs/{job['id']}", timeout=10).json()
    return job


def make(server: str, asked: dict[str, Any]) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """Ask for images; return the job and the first of them."""
    answer = requests.post(f"{server}/api/jobs", json=asked, timeout=10)
    assert answer.status_code == 202, answer.text
    job = finish(server, answer.json())
    assert job["status"] == "done", job
    png = requests.get(f"{server}/api/jobs/{job['id']}/images/1.png", timeout=10).content
    return job, np.array(Image.open(io.BytesIO(png)))


def test_a_recipe_makes_the_same_image_again(server: str) -> None:
    job, image = make(server, recipe(mask_of(), seed=5, variations=2, prompt="Aerial view."))
    assert image.shape == (64, 64, 3) and job["images"] == 2
    assert 0 <= job["judged"][0]["pixel_accuracy"] <= 1
    saved = requests.get(f"{server}/api/jobs/{job['id']}/recipe.json", timeout=10).json()
    again, same = make(server, saved)
    assert again["id"] != job["id"] and np.array_equal(image, same)
    _, other = make(server, saved | {"seed": 6})
    assert not np.array_equal(image, other)
    second = requests.get(f"{server}/api/jobs/{job['id']}/images/2.png", timeout=10).content
    assert np.array_equal(np.array(Image.open(io.BytesIO(second))), other)  # the next seed
    wrong = requests.post(f"{server}/api/jobs", json=saved | {"model": "0"}, timeout=10)
    assert wrong.status_code == 422 and "another model" in wrong.json()["detail"]


def test_an_edit_leaves_the_rest_and_comes_georeferenced(server: str, tmp_path: Path) -> None:
    patches = requests.get(f"{server}/api/patches", timeout=10).json()
    chosen = {key: patches[0][key] for key in ("split", "row")}
    ground = requests.post(f"{server}/api/grounds/patch", json=chosen, timeout=10).json()
    assert ground["has_photograph"] and ground["place"]["crs"] == "EPSG:2154"
    url = f"{server}/api/grounds/{ground['id']}/photograph.png"
    photograph = requests.get(url, timeout=10).content
    before = np.frombuffer(base64.b64decode(ground["mask"]), np.uint8)
    before = before.reshape(ground["height"], ground["width"])
    after = before.copy()
    after[20:30, 20:30] = BUILDING if before[25, 25] != BUILDING else ROAD
    start = {"mask": ground["mask"], "photograph": base64.b64encode(photograph).decode()}
    asked = recipe(after, place=ground["place"], start=start | {"real": True}, margin=4)
    job, image = make(server, asked)
    real = np.array(Image.open(io.BytesIO(photograph)))
    far = np.ones(after.shape, bool)
    far[15:35, 15:35] = False
    assert np.array_equal(image[far], real[far])
    assert not np.array_equal(image[22:28, 22:28], real[22:28, 22:28])
    archive = requests.get(f"{server}/api/jobs/{job['id']}/result.zip", timeout=10).content
    with zipfile.ZipFile(io.BytesIO(archive)) as packed:
        assert set(packed.namelist()) == {
            *("image-1.tif", "mask.tif", "before.tif", "mask-before.tif", "change.tif"),
            *("recipe.json", "README.txt"),
        }
        packed.extractall(tmp_path)
    with (
        rasterio.open(tmp_path / "image-1.tif") as file,
        rasterio.open(tmp_path / "mask.tif") as mask,
    ):
        assert file.crs.to_epsg() == 2154 and file.tags()["SYNTHETIC"] == "YES"
        assert list(file.transform)[:6] == ground["place"]["transform"]
        assert file.transform == mask.transform and np.array_equal(mask.read(1), after)
    with rasterio.open(tmp_path / "before.tif") as file:
        assert "SYNTHETIC" not in file.tags()
    again = requests.post(f"{server}/api/jobs", json=asked | {"mask": ground["mask"]}, timeout=10)
    assert again.status_code == 422 and "nothing changes" in again.json()["detail"]


def test_captions_follow_the_classes(server: str) -> None:
    patches = requests.get(f"{server}/api/patches", timeout=10).json()
    chosen = {key: patches[0][key] for key in ("split", "row")}
    ground = requests.post(f"{server}/api/grounds/patch", json=chosen, timeout=10).json()
    asked = {"shares": {"water": 0.7, "building": 0.3}, "ground": ground["id"]}
    caption = requests.post(f"{server}/api/caption", json=asked, timeout=10).json()["caption"]
    place = ground["caption"].partition(". ")[0]
    assert caption == f"{place}. water, building."
    free = requests.post(f"{server}/api/caption", json=asked | {"ground": None}, timeout=10).json()
    assert free["caption"].endswith("water, building.")


def test_uploads_of_every_kind(server: str, tmp_path: Path) -> None:
    mask, classes = mask_of(), load_params().classes
    write_mask(tmp_path / "mask.png", mask, classes)
    transform = Affine(0.2, 0, 700000, 0, -0.2, 6600000)
    with MemoryFile() as memory:
        profile = {"driver": "GTiff", "width": 640, "height": 640, "count": 1, "dtype": "uint8"}
        with memory.open(**profile, crs="EPSG:2154", transform=transform) as file:
            file.write(np.kron(mask, np.ones((10, 10), np.uint8)), 1)
        tiff = memory.read()
    square = [[[3.0, 46.5], [3.01, 46.5], [3.01, 46.51], [3.0, 46.51], [3.0, 46.5]]]
    feature = {
        "type": "Feature",
        "properties": {"classe": "Vigne"},
        "geometry": {"type": "Polygon", "coordinates": square},
    }
    vectors = json.dumps({"type": "FeatureCollection", "features": [feature]}).encode()
    url = f"{server}/api/grounds/file"
    plain = requests.post(url, (tmp_path / "mask.png").read_bytes(), timeout=20).json()
    assert base64.b64decode(plain["mask"]) == mask.tobytes() and plain["place"] is None
    placed = requests.post(url, tiff, params={"name": "a.tif"}, timeout=20).json()
    pixel = requests.get(f"{server}/api/model", timeout=10).json()["pixel_size"]
    assert placed["width"] == round(128 / pixel) and placed["place"]["crs"] == "EPSG:2154"
    drawn = requests.post(url, vectors, params={"name": "a.geojson"}, timeout=20).json()
    assert set(base64.b64decode(drawn["mask"])) <= {9, 255}
    assert drawn["place"]["crs"] == "EPSG:32631"


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be large."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


VRT = b"""<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1">
<SimpleSource><SourceFilename>/etc/hostname</SourceFilename></SimpleSource></VRTRasterBand>
</VRTDataset>"""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no PNG"),
        (VRT, "is no PNG"),
        (b"PK\x03\x04" + b"\0" * 100, "is no PNG"),
        (png_header(100_000, 100_000), "100000 x 100000 pixels"),
        (png_header(64, 64), "cannot be read"),
        (b"II*\0" + b"\xff" * 64, "cannot be read"),
        (b'{"type": "FeatureCollection", "features": []}', "a.png"),
        (b'{"not": "geo"}', "cannot be read"),
        (b"SQLite format 3\0" + b"\0" * 200, "cannot be read"),
    ],
)
def test_hostile_uploads_are_a_message(server: str, content: bytes, said: str) -> None:
    url = f"{server}/api/grounds/file"
    answer = requests.post(url, content, params={"name": "a.png"}, timeout=20)
    assert answer.status_code == 422, answer.text
    assert said in answer.json()["detail"] and "/tmp" not in answer.json()["detail"]
    assert requests.get(f"{server}/api/model", timeout=10).ok


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"width": 65}, "not 65 x 64"),
        ({"width": 5000}, "width"),
        ({"mask": "%%%"}, "base64"),
        ({"mask": encode(np.full((64, 64), 99, np.uint8))}, "ids of no class"),
        ({"seed": "x"}, "seed"),
        ({"steps": 10**9}, "steps"),
        ({"variations": 99}, "variations"),
        ({"path": "/etc/passwd"}, "path"),
        ({"place": {"crs": "/etc/passwd", "transform": [1, 0, 0, 0, -1, 0]}}, "place.crs"),
        ({"start": {"mask": encode(mask_of()), "photograph": "x"}}, "photograph"),
        ({"start": {"mask": "AAAA"}}, "3 bytes"),
    ],
)
def test_wrong_recipes_are_a_message(server: str, changes: dict[str, Any], said: str) -> None:
    answer = requests.post(f"{server}/api/jobs", json=recipe(mask_of()) | changes, timeout=10)
    assert answer.status_code == 422 and said in answer.json()["detail"]


def test_other_hosts_sites_and_paths_are_refused(server: str) -> None:
    url = f"{server}/api/model"
    assert requests.get(url, headers={"Host": "evil.example"}, timeout=10).status_code == 421
    other = requests.post(
        f"{server}/api/jobs", "{}", headers={"Origin": "http://evil.example"}, timeout=10
    )
    assert other.status_code == 403
    for path in ("/api/jobs/..%2f..%2fetc/recipe.json", "/..%2fapp.py", "/static/../app.py"):
        assert requests.get(f"{server}{path}", timeout=10).status_code == 404
    page = requests.get(server, timeout=10)
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    assert "http" not in page.text.replace('xmlns="http', "")


def test_an_upload_cut_in_the_middle(server: str) -> None:
    def cut() -> Any:
        yield b"\x89PNG\r\n\x1a\n"
        raise ConnectionError

    with pytest.raises(requests.exceptions.ConnectionError):
        requests.post(f"{server}/api/grounds/file", cut(), timeout=10)
    assert requests.get(f"{server}/api/model", timeout=10).ok


def test_ten_clients_at_once(server: str) -> None:
    """All get their image, and none waits for the page."""
    images: dict[int, NDArray[np.uint8]] = {}

    def client(seed: int) -> None:
        images[seed] = make(server, recipe(mask_of(), seed=seed, steps=2))[1]

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(10)]
    for thread in threads:
        thread.start()
    assert requests.get(server, timeout=10).ok
    for thread in threads:
        thread.join()
    assert len(images) == 10
    assert len({image.tobytes() for image in images.values()}) == 10


def test_cancelling_and_a_full_queue(server: str) -> None:
    url = f"{server}/api/jobs"
    long = recipe(mask_of(256), steps=200, variations=4)
    running = requests.post(url, json=long, timeout=10).json()
    answers = [requests.post(url, json=recipe(mask_of(), steps=1), timeout=10) for _ in range(25)]
    waiting = [answer.json() for answer in answers if answer.status_code == 202]
    assert {answer.status_code for answer in answers} == {202, 429} and len(waiting) >= 20
    assert requests.get(f"{url}/{waiting[3]['id']}", timeout=10).json()["ahead"] >= 3
    events = requests.get(f"{url}/{waiting[0]['id']}/events", stream=True, timeout=60)
    requests.delete(f"{url}/{waiting[1]['id']}", timeout=10)
    requests.delete(f"{url}/{running['id']}", timeout=10)
    assert finish(server, running)["status"] == "cancelled"
    states = [json.loads(line[6:]) for line in events.iter_lines() if line.startswith(b"data: ")]
    assert states[-1]["status"] == "done" and states[0]["status"] == "waiting"
    assert finish(server, waiting[1])["status"] == "cancelled"
    assert finish(server, waiting[-1])["status"] == "done"


def test_mistakes_on_the_command_line(whole: Path, tmp_path: Path) -> None:
    port = free_port()
    missing = run(tmp_path, "aerialdreams", "serve", "--port", str(port))
    assert missing.returncode == 2 and "models/controlnet" in missing.stderr
    wrong = run(whole, "aerialdreams", "serve", "--host", "203.0.113.9", "--port", str(port))
    assert wrong.returncode == 2 and "203.0.113.9" in wrong.stderr
    assert "Traceback" not in missing.stderr + wrong.stderr
