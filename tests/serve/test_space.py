"""A Space: its folder is complete, and its own command serves the page and paints."""

import json
import subprocess
import sys
from pathlib import Path

import requests
import yaml

from tests.projects import environment, run
from tests.serve.test_api import make, mask_of, recipe
from tests.servers import free_port, wait_for


def test_a_space_serves_the_page_from_its_folder(whole: Path, tmp_path: Path) -> None:
    models = ["--controlnet", "lab/aerial@v1", "--base", "lab/base"]
    words = ["publish", "space", "lab/demo", "--dry-run", *models]
    ended = run(whole, "aerialdreams", *words)
    assert ended.returncode == 0, ended.stderr
    assert "would publish space lab/demo" in ended.stdout and "serve/static/app.js" in ended.stdout
    space = whole / "scratch/space"
    card = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert card["sdk"] == "docker" and card["models"] == ["lab/aerial", "lab/base"]
    assert "IGN" in (space / "README.md").read_text()
    command = (space / "Dockerfile").read_text().partition("CMD ")[2].replace("\\\n", "")
    words = json.loads(command)
    assert "lab/aerial@v1" in words
    # As the container runs it, but for the names of models and port.
    port = free_port()
    swaps = {
        "lab/aerial@v1": f"{whole}/models/controlnet",
        "lab/base": f"{whole}/models/adapted_base",
        "7860": str(port),
        "0.0.0.0": "127.0.0.1",
    }
    words = [sys.executable, "-m", "aerialdreams.cli", *(swaps.get(w, w) for w in words[1:])]
    variables = environment() | {"PYTHONPATH": str(space)}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(words, cwd=tmp_path, env=variables, stdout=log, stderr=log)
    try:
        wait_for(port, server)
        url = f"http://127.0.0.1:{port}"
        assert requests.get(url, timeout=10).ok
        assert requests.get(f"{url}/api/patches", timeout=10).json() == []
        job, image = make(url, recipe(mask_of(), steps=1))
        assert image.shape == (64, 64, 3) and job["judged"] == [None]
    finally:
        server.terminate()
        server.wait(30)


def test_a_space_needs_models_of_the_hub(whole: Path) -> None:
    words = ["publish", "space", "lab/demo", "--controlnet", "models/controlnet", "--base", "a/b"]
    ended = run(whole, "aerialdreams", *words)
    assert ended.returncode == 2 and "needs a model on the hub" in ended.stderr


def test_a_token_is_asked_for(whole: Path, tmp_path: Path) -> None:
    """By everything; the printed address sets a cookie."""
    port = free_port()
    words = ["aerialdreams", "serve", "--port", str(port), "--token", "secret"]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(words, cwd=whole, env=environment(), stdout=log, stderr=log)
    try:
        wait_for(port, server)
        url = f"http://127.0.0.1:{port}"
        assert requests.get(url, timeout=10).status_code == 401
        assert requests.get(f"{url}/api/model", timeout=10).status_code == 401
        bearer = {"Authorization": "Bearer secret"}
        assert requests.get(f"{url}/api/model", headers=bearer, timeout=10).ok
        session = requests.Session()
        assert session.get(f"{url}/?token=secret", timeout=10).ok
        assert session.get(f"{url}/api/model", timeout=10).ok
        assert session.get(f"{url}/api/model?token=wrong", timeout=10).status_code == 401
    finally:
        server.terminate()
        server.wait(30)
    assert "?token=secret" in (tmp_path / "log").read_text()
