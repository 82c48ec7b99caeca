"""An Overpass server on loopback that returns recorded responses of a real one, or fails."""

import gzip
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from tests.server import running

ZONE = re.compile(r'way\["landuse"\]\(([-\d.,]+)\)')


@dataclass
class FakeServer:
    """The server's responses and faults, and the requests that it received.

    Attributes:
        url: its address.
        recorded: responses of a real server by the zone's box (south, west, north, east).
        faults: how to treat the next requests: an HTTP status; `remark TEXT`; `html`; `cut`;
            `reset`; `silence`; `bad gzip`; `empty`; "" for the recorded response.
        max_height: height of a box in degrees above which the server runs out of memory.
        queries, agents: the queries and User-Agent headers received.
    """

    url: str = ""
    recorded: dict[tuple[float, ...], bytes] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    max_height: float = 90.0
    queries: list[str] = field(default_factory=list)
    agents: list[str] = field(default_factory=list)

    def answer(self, query: str) -> bytes:
        """The recorded response for the zone that contains the centre of the query's box."""
        match = ZONE.search(query)
        assert match is not None, query
        south, west, north, east = map(float, match[1].split(","))
        if north - south > self.max_height:
            return remark("runtime error: Query run out of memory using about 64 MB of RAM.")
        latitude, longitude = (south + north) / 2, (west + east) / 2
        for box, body in self.recorded.items():
            if box[0] < latitude < box[2] and box[1] < longitude < box[3]:
                return body
        raise AssertionError(f"no recorded response for {match[1]}")


def remark(text: str) -> bytes:
    """A partial response, in the form of a real server's."""
    stamp = {"timestamp_osm_base": "2016-03-05T00:26:02Z"}
    return json.dumps({"osm3s": stamp, "elements": [], "remark": text}).encode()


def recorded_responses(folder: Path) -> dict[tuple[float, ...], bytes]:
    """The recorded responses in a folder of OpenStreetMap data, by box."""
    return {
        tuple(zone["wgs84_bounds_swne"]): (folder / f"overpass/{zone['name']}.json").read_bytes()
        for zone in recorded_zones(folder)
    }


def recorded_zones(folder: Path) -> list[dict[str, Any]]:
    """Names and bounds of the zones with recorded responses."""
    index = json.loads((folder / "overpass/index.json").read_text())
    return [entry for entry in index if "lambert93_bounds" in entry]


@contextmanager
def serve_overpass(server: FakeServer) -> Iterator[FakeServer]:
    """Run the server on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            server.queries.append(form["data"][0])
            server.agents.append(self.headers.get("User-Agent", ""))
            fault = server.faults.pop(0) if server.faults else ""
            if fault == "reset":
                self.close_connection = True
            elif fault == "silence":
                time.sleep(3)
                self.close_connection = True
            elif fault.isdigit():
                page = (
                    f"<html><head><title>x</title></head><p>Error {fault}: rate_limited</p></html>"
                )
                self._send(int(fault), "text/html", page.encode())
            elif fault == "html":
                page = "<html><strong>Error</strong>: runtime error: duplicate_query</html>"
                self._send(200, "text/html; charset=utf-8", page.encode())
            elif fault.startswith("remark "):
                self._send(200, "application/json", remark(fault.removeprefix("remark ")))
            elif fault == "empty":
                self._send(200, "application/json", b"")
            elif fault == "cut":
                self._chunks(server.answer(form["data"][0])[:5000])
            elif fault == "bad gzip":
                self._send(200, "application/json", b"\x1f\x8b no gzip at all", "gzip")
            else:
                body = gzip.compress(server.answer(form["data"][0]))
                self._send(200, "application/json", body, "gzip")

        def _send(self, status: int, kind: str, body: bytes, coding: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            if coding:
                self.send_header("Content-Encoding", coding)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _chunks(self, body: bytes) -> None:
            """Send a truncated body in valid chunks."""
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")

        def log_message(self, *arguments: object) -> None:
            pass

    with running(Handler) as address:
        server.url = f"{address}/api/interpreter"
        yield server
