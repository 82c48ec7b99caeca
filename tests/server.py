"""A web server on loopback with ranges, that misbehaves when it is told to."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


@dataclass
class Site:
    """What the server has, what it does wrong, and what it was asked.

    Attributes:
        url: its address.
        files: bytes by path, without the first slash.
        faults: what to do with the next GETs, one each: a status, or `cut N` for N bytes of the
            body and a closed connection, or `reset` for no answer, or `no range` for all of it.
        requests: method, path and Range header of all requests.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)


@contextmanager
def serve() -> Iterator[Site]:
    """Run the server on a free port."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer("")

        def do_GET(self) -> None:
            self._answer(site.faults.pop(0) if site.faults else "")

        def _answer(self, fault: str) -> None:
            path = unquote(self.path.lstrip("/"))
            site.requests.append((self.command, path, self.headers.get("Range")))
            body = site.files.get(path)
            if fault == "reset":
                self.close_connection = True
                return
            if fault.isdigit() or body is None:
                self.send_response(int(fault) if fault.isdigit() else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            etag = f'"{hash(body)}"'
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            same = self.headers.get("If-Range", etag) == etag
            if wanted and same and fault != "no range":
                start = int(wanted[1])
                if start >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(body)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
                body = body[start:]
            else:
                self.send_response(200)
            self.send_header("ETag", etag)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if fault.startswith("cut "):
                self.wfile.write(body[: int(fault.split()[1])])
                self.close_connection = True
                return
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    with running(Handler) as site.url:
        yield site


@contextmanager
def running(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Run a server on a free port of loopback; gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
