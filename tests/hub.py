"""A Hugging Face hub on loopback: what huggingface_hub asks of it, for one repository."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

import pytest

from tests.server import running

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_secret"


@dataclass
class Hub:
    """A hub with one repository, whose revision `main` is COMMIT.

    Attributes:
        repository: its name, "models/ID" or "datasets/ID".
        url: the hub's address.
        files: bytes by path in the repository.
        needs_token: "" or what the hub says without TOKEN: "GatedRepo" or "RepoNotFound".
        faults: statuses to answer the next requests for files with.
        requests: paths of all requests.
    """

    repository: str
    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    needs_token: str = ""
    faults: list[int] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def serve_hub(repository: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Run a hub, and have huggingface_hub use it, as HF_ENDPOINT does."""
    hub = Hub(repository)
    kind, _, name = repository.partition("/")
    prefix = "" if kind == "models" else "datasets/"

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = unquote(urlsplit(self.path).path.lstrip("/"))
            hub.requests.append(path)
            if hub.needs_token and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.send(401, b"", {"X-Error-Code": hub.needs_token})
            elif path in (f"api/{repository}/revision/main", f"api/{repository}/revision/{COMMIT}"):
                self.send(200, json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode())
            elif path == f"api/{repository}/tree/{COMMIT}":
                self.send(200, json.dumps(list(map(entry, sorted(hub.files)))).encode())
            elif path.startswith(f"api/{repository}/revision/"):
                self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            elif not path.startswith(f"{prefix}{name}/resolve/"):
                self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
            elif hub.faults and self.command == "GET":
                self.send(hub.faults.pop(0), b"")
            else:
                self.send_file(path.removeprefix(f"{prefix}{name}/resolve/{COMMIT}/"))

        def send_file(self, path: str) -> None:
            body = hub.files[path]
            headers = {"ETag": f'"{entry(path)["oid"]}"', "X-Repo-Commit": COMMIT}
            part = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if part:
                start = int(part[1])
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                self.send(206, body[start:], headers)
            else:
                self.send(200, body, headers)

        def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    def entry(path: str) -> dict[str, object]:
        body = hub.files[path]
        oid = hashlib.sha1(body).hexdigest()
        return {"type": "file", "path": path, "size": len(body), "oid": oid}

    with running(Handler) as hub.url:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield hub
