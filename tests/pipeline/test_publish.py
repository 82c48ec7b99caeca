"""Publishing: what leaves, what it must bear, and what happens when the hub says no."""

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aerialdreams.errors import UserError, WorkError
from aerialdreams.pipeline.publish import publish

CREDITS = ["IGN", "Licence Ouverte", "OpenStreetMap contributors", "ODbL"]
CARD = """---
license: other
license_name: licence-ouverte-2.0-and-odbl-1.0
---
# Patches
Images: © IGN, Licence Ouverte 2.0. Places: © OpenStreetMap contributors, ODbL 1.0.
"""


@pytest.fixture
def dataset(workdir: Path) -> Path:
    """A dataset's folder with a card."""
    folder = workdir / "data/dataset"
    (folder / "data").mkdir(parents=True)
    for split in ("train", "validation", "test"):
        table = pa.table({"patch_id": np.arange(3)})
        pq.write_table(table, folder / f"data/{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict]:
    """A hub on loopback that notes what it is asked, and answers with `hub["status"]`."""
    seen: dict = {"asked": [], "status": 200}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen["asked"].append((self.path, body, self.headers.get("Authorization")))
            answer: dict = {"url": f"{url}/datasets/me/patches", "name": "me/patches"}
            status = seen["status"]
            if "/preupload/" in self.path:  # the upload's boundary
                status, answer = 400, {"error": "the hub is full"}
            self._say(status, answer)

        def do_GET(self) -> None:
            self._say(seen["status"], {})

        def _say(self, status: int, answer: dict) -> None:
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield seen
    server.shutdown()


def test_a_dry_run_says_what_would_leave(dataset: Path, hub: dict) -> None:
    said = publish(
        "dataset", "me/patches", private=True, revision="v1", dry_run=True, credits=CREDITS
    )
    for path in dataset.rglob("*.*"):
        assert f"{path.stat().st_size:,}  {path.relative_to(dataset)}" in said
    assert "would publish dataset me/patches at v1, private, licence licence-ouverte" in said
    assert "4 files" in said and "nothing was uploaded" in said
    assert hub["asked"] == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "license_name: licence-ouverte-2.0-and-odbl-1.0\n",
            "license_name: see-card\n",
            "a licence",
        ),
        ("license: other\nlicense_name: licence-ouverte-2.0-and-odbl-1.0\n", "", "a licence"),
        ("© IGN, ", "", "IGN"),
        ("© OpenStreetMap contributors", "them", "OpenStreetMap contributors"),
        ("ODbL 1.0", "free", "ODbL"),
    ],
)
def test_without_licence_or_credits_nothing_leaves(
    dataset: Path, hub: dict, old: str, new: str, message: str
) -> None:
    (dataset / "README.md").write_text(CARD.replace(old, new))
    with pytest.raises(UserError, match=rf"README\.md: lacks .*{message}.*; nothing is uploaded"):
        publish(
            "dataset", "me/patches", private=False, revision="main", dry_run=False, credits=CREDITS
        )
    (dataset / "README.md").unlink()
    with pytest.raises(UserError, match=r"README\.md: lacks"):
        publish(
            "dataset", "me/patches", private=False, revision="main", dry_run=True, credits=CREDITS
        )
    assert hub["asked"] == []


def test_half_a_dataset_does_not_leave(dataset: Path) -> None:
    shard = dataset / "data/train-00000-of-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(UserError, match=r"train-00000.*: cannot be read"):
        publish(
            "dataset", "me/patches", private=False, revision="main", dry_run=True, credits=CREDITS
        )
    shard.unlink()
    with pytest.raises(UserError, match=r"data/dataset: has no data/train-\*\.parquet"):
        publish(
            "dataset", "me/patches", private=False, revision="main", dry_run=True, credits=CREDITS
        )
    shutil.rmtree(dataset)
    with pytest.raises(UserError, match=r"data/dataset: not found"):
        publish(
            "dataset", "me/patches", private=False, revision="main", dry_run=True, credits=CREDITS
        )


def test_the_hub_is_asked_for_what_was_said(dataset: Path, hub: dict) -> None:
    """Up to the upload's boundary, where this hub says that it is full."""
    with pytest.raises(WorkError, match=r"me/patches: .*try again"):
        publish(
            "dataset", "me/patches", private=True, revision="v1", dry_run=False, credits=CREDITS
        )
    (made, body, token), *_ = hub["asked"]
    assert made == "/api/repos/create" and token == "Bearer hf_test"
    assert json.loads(body)["type"] == "dataset" and json.loads(body)["name"] == "patches"
    assert json.loads(body).get("private") or json.loads(body).get("visibility") == "private"
    paths = [path for path, _, _ in hub["asked"]]
    assert "/api/datasets/me/patches/branch/v1" in paths
    assert "/api/datasets/me/patches/preupload/v1" in paths


def test_a_token_that_may_not_write(dataset: Path, hub: dict) -> None:
    hub["status"] = 401
    with pytest.raises(UserError, match=r"me/patches: the hub denies write access .*HF_TOKEN"):
        publish(
            "dataset", "me/patches", private=False, revision="main", dry_run=False, credits=CREDITS
        )


def test_no_hub(dataset: Path, hub: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WorkError, match=r"me/patches: the hub cannot be reached"):
        publish(
            "dataset", "me/patches", private=False, revision="main", dry_run=False, credits=CREDITS
        )
