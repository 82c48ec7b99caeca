"""Atomic files and folders, JSON, and hashes."""

from pathlib import Path

import pytest

from aerialdreams.errors import UserError
from aerialdreams.util import files
from aerialdreams.util.files import atomic_file, atomic_folder, fingerprint, read_json, write_json


def test_a_file_is_replaced_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new/a.txt"
    with atomic_file(path) as partial:
        partial.write_text("first")
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), atomic_file(path) as partial:
        partial.write_text("half of the sec")
        1 / 0  # noqa: B018
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_is_replaced_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new/folder"
    with atomic_folder(path) as partial:
        (partial / "a.txt").write_text("first")
        assert not path.exists()
    with pytest.raises(ZeroDivisionError), atomic_folder(path) as partial:
        (partial / "b.txt").write_text("second")
        1 / 0  # noqa: B018
    assert [file.name for file in path.iterdir()] == ["a.txt"]
    (tmp_path / "new/folder.partial").mkdir()
    (tmp_path / "new/folder.partial/c.txt").write_text("left by a killed run")
    with atomic_folder(path) as partial:
        (partial / "d.txt").write_text("third")
    assert [file.name for file in path.iterdir()] == ["d.txt"]
    assert list(path.parent.iterdir()) == [path]


def test_a_fingerprint_depends_on_params_code_and_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, module, data = (tmp_path / name for name in ("stage.py", "package/room/a.py", "data"))
    module.parent.mkdir(parents=True)
    for path in (script, module, data):
        path.write_text("1")
    monkeypatch.setattr(files, "PACKAGE", tmp_path / "package")

    def key(param: int = 1) -> str:
        return fingerprint([param], str(script), [data])

    before = key()
    assert key() == before and len(before) == 16
    assert key(2) != before
    for path in (script, module, data):
        path.write_text("2")
        assert key() != before, path
        path.write_text("1")
    assert key() == before


def test_a_fingerprint_covers_the_code_of_all_rooms() -> None:
    rooms = {path.parent.name for path in files.PACKAGE.rglob("*.py")}
    assert {"data", "models", "training", "util"} <= rooms


def test_a_wrong_json_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(UserError, match=r"a\.json: not found; run `dvc repro`"):
        read_json(path)
    write_json(path, {"name": "Pyrénées", "values": [1.5, None]})
    assert read_json(path) == {"name": "Pyrénées", "values": [1.5, None]}
    path.write_text(path.read_text()[:-5])
    with pytest.raises(UserError, match=r"a\.json: cannot be read \(Expecting"):
        read_json(path)
