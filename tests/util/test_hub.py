"""Downloads from a hub that needs tokens, fails, or is not there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from aerialdreams.errors import UserError, WorkError
from aerialdreams.util import hub as hub_module
from aerialdreams.util.hub import download_snapshot, list_files
from tests.hub import COMMIT, TOKEN, Hub, serve_hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub_module, "WAIT", 0.001)
    monkeypatch.setattr(hub_module, "LONGEST_WAIT", 0.01)
    with serve_hub("models/our/model", monkeypatch) as running:
        running.files |= {"config.json": b"{}", "unet/w.safetensors": b"w" * 9000, "big.bin": b"b"}
        yield running


def download(revision: str = "main", repository: str = "our/model") -> Path:
    return download_snapshot("base_model.id", repository, revision, ["*.json", "unet/*"])


def test_only_what_matches_is_downloaded_once(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    folder = download()
    assert folder.name == COMMIT
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert names == {"config.json", "unet/w.safetensors"}
    assert (folder / "unet/w.safetensors").read_bytes() == b"w" * 9000
    message = f"base_model.id: our/model is not pinned: 'main' is commit {COMMIT} today"
    assert message in capsys.readouterr().err
    hub.requests.clear()
    assert download() == folder
    assert not any("resolve" in path for path in hub.requests)
    assert sorted(list_files("our/model", COMMIT, "model")) == sorted(hub.files)


def test_a_pinned_revision_needs_no_word_and_no_network(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    download(COMMIT)
    assert "not pinned" not in capsys.readouterr().err
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert download(COMMIT).name == COMMIT
    assert hub.requests == []
    with pytest.raises(WorkError, match=r"our/other: not in the hub's cache, and HF_HUB_OFFLINE"):
        download(COMMIT, "our/other")


def test_failures_of_the_server_are_retried_and_said(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults = [500, 503]
    folder = download()
    assert (folder / "unet/w.safetensors").read_bytes() == b"w" * 9000
    assert "base_model.id: our/model: " in capsys.readouterr().err


def test_a_gated_or_private_repository_opens_with_a_token(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.needs_token = "GatedRepo"
    with pytest.raises(UserError, match=r"our/model is gated; accept its terms .*HF_TOKEN"):
        download()
    hub.needs_token = "RepoNotFound"
    with pytest.raises(UserError, match=r"the hub has no our/model, or it is private"):
        download()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert (download() / "config.json").exists()


def test_unknown_names_and_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"the hub has no our/nothing"):
        download(repository="our/nothing")
    with pytest.raises(UserError, match=r"our/model has no revision 'v9'"):
        download("v9")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WorkError, match=r"base_model\.id: our/model: the hub cannot be reached"):
        download()
