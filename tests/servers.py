"""Real servers on loopback, for tests that are marked so: SSH, S3 (Swift) and PostgreSQL."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import ROOT

SWIFT = ROOT / "scratch/swift/bin"
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
ADVICE = "; scripts/test-servers installs it"
KEYS = ("test:tester", "secret")  # of the S3 server


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    """Wait until somebody listens."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, process.args
            time.sleep(0.1)


@contextmanager
def ssh_server(folder: Path) -> Iterator[tuple[int, Path]]:
    """OpenSSH with SFTP, for the user who runs the tests; gives its port and the user's key."""
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if not sshd:
        pytest.skip(f"no OpenSSH server{ADVICE}")
    folder.mkdir()
    for name in ("host", "user"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(make, check=True)
    port = free_port()
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\nPidFile none\n"
        f"AuthorizedKeysFile {folder / 'user.pub'}\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)  # where it is confined before login
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([sshd, "-D", "-e", "-f", folder / "config"], stderr=log)
        try:
            wait_for(port, server)
            yield port, folder / "user"
        finally:
            server.terminate()
            server.wait()


@contextmanager
def s3_server(root: Path) -> Iterator[int]:
    """OpenStack Swift with its S3 API, one disk and one copy; gives its port."""
    if not (SWIFT / "swift-proxy-server").exists():
        pytest.skip(f"no OpenStack Swift{ADVICE}")
    kinds = ("account", "container", "object")
    ports = {kind: free_port() for kind in (*kinds, "proxy")}
    (root / "devices/disk").mkdir(parents=True)
    (root / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_suffix = a\n[storage-policy:0]\nname = one\ndefault = yes\n"
    )
    common = (
        f"[DEFAULT]\nswift_dir = {root}\ndevices = {root / 'devices'}\nmount_check = false\n"
        f"bind_ip = 127.0.0.1\nuser = {os.environ.get('USER', 'root')}\nworkers = 0\n"
        "log_address = /dev/null\n"
    )
    for kind in kinds:
        ring = [str(SWIFT / "swift-ring-builder"), str(root / f"{kind}.builder")]
        for words in (
            ["create", "4", "1", "0"],
            ["add", f"r1z1-127.0.0.1:{ports[kind]}/disk", "1"],
            ["rebalance"],
        ):
            subprocess.run([*ring, *words], check=True, capture_output=True)
        (root / f"{kind}.conf").write_text(
            f"{common}bind_port = {ports[kind]}\n[pipeline:main]\npipeline = {kind}-server\n"
            f"[app:{kind}-server]\nuse = egg:swift#{kind}\n"
        )
    filters = ("catch_errors", "gatekeeper", "listing_formats", "s3api", "slo")
    (root / "proxy.conf").write_text(
        f"{common}bind_port = {ports['proxy']}\n[pipeline:main]\n"
        "pipeline = catch_errors gatekeeper cache listing_formats s3api tempauth slo proxy-server\n"
        "[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n"
        "[filter:cache]\nuse = egg:swift#memcache\nmemcache_servers = 127.0.0.1:9\n"
        f"[filter:tempauth]\nuse = egg:swift#tempauth\nuser_test_tester = {KEYS[1]} .admin\n"
        + "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in filters)
    )
    processes = []
    with (root / "log").open("wb") as log:
        try:
            for kind in (*kinds, "proxy"):
                words = [str(SWIFT / f"swift-{kind}-server"), str(root / f"{kind}.conf")]
                processes.append(subprocess.Popen(words, stdout=log, stderr=log))
                wait_for(ports[kind], processes[-1])
            yield ports["proxy"]
        finally:
            for process in processes:
                process.terminate()
                process.wait()


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """PostgreSQL with an empty database; gives its address for MLflow."""
    if not POSTGRES:
        pytest.skip(f"no PostgreSQL server{ADVICE}")
    port, data = free_port(), folder / "data"
    folder.mkdir()
    # It refuses to run as root.
    sudo = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if sudo:
        for place in (folder, *folder.parents):
            if place.stat().st_uid == 0 and place != Path("/"):
                place.chmod(place.stat().st_mode | 0o011)
        shutil.chown(folder, "postgres")
    tools = POSTGRES[-1]
    make = [*sudo, f"{tools}/initdb", "-D", str(data), "-A", "trust", "-U", "mlflow", "--no-sync"]
    subprocess.run(make, check=True, capture_output=True, cwd="/")
    serve = [*sudo, f"{tools}/postgres", "-D", str(data), "-p", str(port), "-k", str(folder)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([*serve, "-h", "127.0.0.1"], stdout=log, stderr=log, cwd="/")
        try:
            wait_for(port, server)
            create = [f"{tools}/createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow"]
            for _ in range(50):  # it listens a little before it answers
                if subprocess.run([*create, "mlflow"], capture_output=True).returncode == 0:
                    break
                time.sleep(0.2)
            yield f"postgresql+psycopg://mlflow@127.0.0.1:{port}/mlflow"
        finally:
            server.terminate()
            server.wait()
