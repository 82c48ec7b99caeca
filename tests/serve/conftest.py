"""A server over the small project that the pipeline made."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.projects import environment
from tests.servers import free_port, wait_for


@contextmanager
def serve(project: Path, folder: Path) -> Iterator[str]:
    """The address of `aerialdreams serve` in a project; it leaves nothing behind.

    Args:
        project: where the command runs.
        folder: an empty one, for the server's temporary files and its log.
    """
    port, temporary = free_port(), folder / "temporary"
    temporary.mkdir()
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            ["aerialdreams", "serve", "--port", str(port)],
            cwd=project,
            env=environment() | {"TMPDIR": str(temporary)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
    assert not list(temporary.glob("aerialdreams*"))


@pytest.fixture(scope="module")
def server(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `aerialdreams serve` in the small project."""
    with serve(whole, tmp_path_factory.mktemp("server")) as address:
        yield address
