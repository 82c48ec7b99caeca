"""Reads zones from an Overpass server, with one request per zone, and keeps its responses.

It follows the usage rules of the public servers: identify yourself, send one request at a time, and
pause after a refusal. See https://dev.overpass-api.de/overpass-doc/en/preface/commons.html and
https://wiki.openstreetmap.org/wiki/Overpass_API.
"""

import gzip
import hashlib
import json
import random
import re
import time
import zlib
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import overpy
import requests
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

from aerialdreams.errors import UserError, WorkError
from aerialdreams.osm.features import Element, ZoneFeatures, zone_features
from aerialdreams.osm.zones import SearchRadius, Zone
from aerialdreams.util.files import atomic_file
from aerialdreams.util.retries import report_retry

ATTEMPTS = 6  # per query
PARTIAL_ATTEMPTS = 2  # attempts that return a partial response, before the zone is split
MAX_SPLITS = 2  # 2 splits a zone into sixteenths
MIN_HOLD = 30.0  # seconds to pause after "too many requests", the minimum of the public servers
MAX_HOLD = 600.0  # upper limit of a Retry-After that we follow, seconds
MIN_WAIT, MAX_WAIT = 2.0, 120.0  # seconds to pause after other failures, doubled after each
SERVER_SECONDS, SERVER_BYTES = 60, 64 * 2**20  # limits for one query, which the server enforces
CONNECT_TIMEOUT, READ_TIMEOUT = 20.0, SERVER_SECONDS + 30.0  # seconds
RESPONSE_TIMEOUT = 3 * READ_TIMEOUT  # seconds for a whole response
TIMESTAMP = re.compile(rb'"timestamp_osm_base":\s*"([^"]+)"')  # overpy discards it
LOOPBACK = ("localhost", "127.0.0.1", "::1")

# It asks for the outlines of quartiers and of communes whose border crosses the zone, and only for
# the tags of larger areas. A global [bbox:] would break rel(pivot).
QUERY = """[out:json][timeout:{seconds}][maxsize:{bytes}];
is_in({centre})->.pt;
rel(pivot.pt)["boundary"="administrative"]["admin_level"~"^([2-9]|10)$"]->.inside;
rel["boundary"="administrative"]["admin_level"~"^([2-9]|10)$"]({zone})->.crossing;
(rel.crossing["admin_level"~"^(8|9|10)$"]; rel.inside["admin_level"="10"];)->.outlined;
.outlined out body geom;
((.inside; .crossing;); - .outlined;);
out tags;
way["highway"]["name"]({near});
out tags geom;
node["place"]["name"]({far});
out body;
(
 way["landuse"]({zone}); way["natural"]({zone}); way["leisure"]({zone});
 node["amenity"]({zone}); way["amenity"]({zone}); node["tourism"]({zone}); way["tourism"]({zone});
 way["waterway"]["name"]({zone}); way["railway"]({zone});
);
out tags geom;
(way["building"]({zone}); rel["building"]({zone}););
out tags center;
"""


class _TransientError(Exception):
    """A failure after which a retry may succeed, after at least `wait` seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def _wait(state: RetryCallState) -> float:
    """Seconds before the next attempt."""
    error = state.outcome.exception() if state.outcome else None
    seconds = min(MIN_WAIT * 2 ** (state.attempt_number - 1), MAX_WAIT)
    if isinstance(error, _TransientError):
        seconds = max(seconds, error.wait)
    return seconds * random.uniform(1.0, 1.5)  # spreads clients that failed at the same moment


class PartialResponseError(Exception):
    """The server aborted a query. The message is the server's."""


class Overpass:
    """An Overpass server and the folder of its responses.

    Args:
        server: URL of its interpreter.
        user_agent: User-Agent header; must contain an e-mail or web address.
        pause: seconds between requests; at least 1 is used for a server on another machine.
        radius: maximum distances to roads and places.
        folder: keeps the responses, one gzipped JSON per query. An existing one is reused.

    Attributes:
        requests: number of requests sent.
        split: number of zones that were requested in quarters.
        used: files of the responses that `read_zone` used.

    Raises:
        UserError: the user agent contains no address, and the server is on another machine.
    """

    def __init__(
        self, server: str, user_agent: str, pause: float, radius: SearchRadius, folder: Path
    ) -> None:
        self.server, self.pause = server, pause
        self.radius, self.folder = radius, folder
        if urlsplit(self.server).hostname not in LOOPBACK:
            if not re.search(r"\S@\S|https?://\S", user_agent):
                raise UserError(
                    f"osm_metadata.overpass.user_agent: {user_agent!r} contains no contact address,"
                    f" which {self.server} requires; add your e-mail or web address"
                )
            self.pause = max(1.0, self.pause)
        self.session = requests.Session()
        self.session.headers = {
            "User-Agent": user_agent,
            "Accept-Encoding": "gzip",
            "Accept": "*/*",
        }
        self.requests, self.split = 0, 0
        self.used: set[Path] = set()
        self._last_request = -1e9  # time.monotonic() at its end

    def read_zone(self, zone: Zone) -> ZoneFeatures:
        """The features of a zone.

        Raises:
            UserError: the server refuses the query, or a kept response is damaged.
            WorkError: the server cannot be reached, or returns only partial responses.
        """
        responses = self._responses(zone, 0)
        merged: dict[tuple[str, int], Element] = {}
        for response in responses:
            for element in elements_of(response):
                # For the same commune, one quarter may have the tags only and another the outline.
                if element.lines or (element.kind, element.id) not in merged:
                    merged[element.kind, element.id] = element
        timestamps = [match[1].decode() for match in map(TIMESTAMP.search, responses) if match]
        return zone_features(zone, merged.values(), min(timestamps))

    def _responses(self, zone: Zone, splits: int) -> list[bytes]:
        """A zone's response, or those of its parts, as JSON. `splits` counts the splits so far."""
        path = self._path(zone)
        if not path.exists():
            can_split = splits < MAX_SPLITS
            was_split = can_split and any(self._path(part).exists() for part in zone.quarters())
            try:
                if was_split:  # an earlier run started on the quarters: do not request the whole
                    raise PartialResponseError("requested in quarters before")
                self._keep(path, self._request(zone))
            except PartialResponseError as error:
                if not can_split:
                    raise WorkError(
                        f"{self.server}: returned only partial responses for {zone}, even for a"
                        f" sixteenth of it: {error}; try again later, or set another"
                        " osm_metadata.overpass.server; complete responses are kept"
                    ) from None
                self.split += splits == 0
                parts = zone.quarters()
                return [body for part in parts for body in self._responses(part, splits + 1)]
        self.used.add(path)
        try:
            return [gzip.decompress(path.read_bytes())]
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"{path}: damaged ({error}); remove it and run `dvc repro`") from None

    def _path(self, zone: Zone) -> Path:
        key = hashlib.sha256(f"{self.server}\n{query(zone, self.radius)}".encode()).hexdigest()
        return self.folder / f"{zone.group}-{zone.name}-{key[:16]}.json.gz"

    def _keep(self, path: Path, body: bytes) -> None:
        with atomic_file(path) as partial:
            partial.write_bytes(gzip.compress(body, mtime=0))

    def _request(self, zone: Zone) -> bytes:
        """Request a zone until a complete response arrives, at most `ATTEMPTS` times.

        Raises:
            PartialResponseError: the server aborted the query `PARTIAL_ATTEMPTS` times.
            UserError: the server refuses the query.
            WorkError: no attempt returned a complete response.
        """
        retrying = Retrying(
            retry=retry_if_exception_type((requests.RequestException, _TransientError)),
            stop=stop_after_attempt(ATTEMPTS),
            wait=_wait,
            before_sleep=report_retry(str(zone)),
            sleep=time.sleep,
            reraise=True,
        )
        partial_count = 0

        def attempt() -> bytes:
            nonlocal partial_count
            status, content_type, retry_after, body = self._send(query(zone, self.radius))
            text = f"HTTP {status}: {_plain_text(body.decode(errors='replace'))}"
            if status == 200 and "html" not in content_type:
                defect = defect_of(body)
                if defect is None:
                    return body
                partial_count += defect.startswith("remark: ")
                if partial_count == PARTIAL_ATTEMPTS:
                    raise PartialResponseError(defect)
                raise _TransientError(defect)
            if status in (200, 429):  # too many requests, or an HTML page that says so
                raise _TransientError(text, max(MIN_HOLD, min(retry_after, MAX_HOLD)))
            if status in (408, 425) or status >= 500:
                raise _TransientError(text)
            raise UserError(
                f"{self.server}: refused the query for {zone}: {text}; check"
                " osm_metadata.overpass (server, user_agent) in params.yaml"
            )

        try:
            return retrying(attempt)
        except (requests.RequestException, _TransientError) as error:
            raise WorkError(
                f"{self.server}: no complete response for {zone} in {ATTEMPTS} attempts, the last:"
                f" {_plain_text(str(error))}; complete responses are kept, `dvc repro` continues"
                " with them"
            ) from None

    def _send(self, text: str) -> tuple[int, str, float, bytes]:
        """Send a query; return status, content type, seconds of Retry-After (or 0) and body."""
        time.sleep(max(0.0, self._last_request + self.pause - time.monotonic()))
        self.requests += 1
        start = time.monotonic()
        try:
            with self.session.post(
                self.server,
                data={"data": text},
                timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
                stream=True,
            ) as response:
                body = bytearray()
                for chunk in response.iter_content(2**16):
                    body += chunk
                    if time.monotonic() - start > RESPONSE_TIMEOUT:
                        raise requests.Timeout(f"still sending after {RESPONSE_TIMEOUT:.0f} s")
                retry_after = response.headers.get("Retry-After", "")
                return (
                    response.status_code,
                    response.headers.get("Content-Type", ""),
                    float(retry_after) if retry_after.isdigit() else 0.0,
                    bytes(body),
                )
        finally:
            self._last_request = time.monotonic()


def query(zone: Zone, radius: SearchRadius) -> str:
    """The Overpass QL query for a zone."""

    def box(margin: float) -> str:  # Overpass QL's order is south, west, north, east
        west, south, east, north = zone.degrees(margin)
        return f"{south:.7f},{west:.7f},{north:.7f},{east:.7f}"

    west, south, east, north = zone.degrees()
    return QUERY.format(
        seconds=SERVER_SECONDS,
        bytes=SERVER_BYTES,
        centre=f"{(south + north) / 2:.7f},{(west + east) / 2:.7f}",
        zone=box(0),
        near=box(radius.road),
        far=box(radius.place),
    )


def defect_of(body: bytes) -> str | None:
    """Why a response is not complete, or None. Overpass sends many failures with status 200."""
    try:
        response = json.loads(body)
    except ValueError as error:
        return f"a response of {len(body)} bytes that is not JSON or is truncated ({error})"
    if not isinstance(response, dict) or not isinstance(response.get("elements"), list):
        return "a response without elements"
    if "remark" in response:  # the query was aborted, and elements are missing
        return f"remark: {_plain_text(str(response['remark']))}"
    if not TIMESTAMP.search(body):
        return "a response without the date of its data"
    try:
        elements_of(body)
    except Exception as error:  # overpy raises many for elements that lack what they should have
        return f"a response with an element that cannot be read ({type(error).__name__}: {error})"
    return None


def elements_of(response: bytes) -> list[Element]:
    """Parse the elements of a complete JSON response."""
    result = overpy.Overpass().parse_json(response)
    nodes = [
        Element("node", node.id, node.tags, [np.array([[float(node.lon), float(node.lat)]])])
        for node in result.nodes
    ]
    ways = [Element("way", way.id, way.tags, _lines(way), (), _centre(way)) for way in result.ways]
    relations = []
    for relation in result.relations:
        lines: dict[bool, list[np.ndarray]] = {False: [], True: []}
        for member in relation.members:
            if isinstance(member, overpy.RelationWay) and member.role in ("outer", "inner", ""):
                # A member outside the server's data has no points, and leaves a gap.
                points = [(float(p.lon), float(p.lat)) for p in member.geometry or ()]
                if len(points) > 1:
                    lines[member.role == "inner"].append(np.array(points))
        # A relation that was requested with its tags only has no members.
        outer = lines[False] if relation.members else None
        relations.append(
            Element("relation", relation.id, relation.tags, outer, lines[True], _centre(relation))
        )
    return [*nodes, *ways, *relations]


def _lines(way: overpy.Way) -> list[np.ndarray]:
    geometry = way.attributes.get("geometry")
    if not geometry:
        return []
    return [np.array([(float(point["lon"]), float(point["lat"])) for point in geometry])]


def _centre(element: overpy.Way | overpy.Relation) -> tuple[float, float] | None:
    if element.center_lon is None:
        return None
    return float(element.center_lon), float(element.center_lat)


def _plain_text(text: str) -> str:
    """The text of an HTML page or message on one line, cut to 300 characters."""
    text = re.sub(r"<(head|style|script)\b.*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL)
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"{text[:300]} ..."
