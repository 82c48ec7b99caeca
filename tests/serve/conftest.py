"""A server over the small project that the pipeline made."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.projects import environment
from tests.servers import free_port, wait_for


@pytest.fixture(scope="module")
def server(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `aerialdreams serve`; it leaves nothing behind."""
    port, temporary = free_port(), tmp_path_factory.mktemp("temporary")
    log = (tmp_path_factory.mktemp("log") / "serve.log").open("wb")
    process = subprocess.Popen(
        ["aerialdreams", "serve", "--port", str(port)],
        cwd=whole,
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
