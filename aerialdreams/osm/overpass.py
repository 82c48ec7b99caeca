"""A zone's elements from an Overpass server, asked once and politely; its answers are kept.

The rules are those of the public servers (dev.overpass-api.de/overpass-doc/en/preface/commons.html,
wiki.openstreetmap.org/wiki/Overpass_API): who asks names himself, one request at a time, and rest
after a refusal.
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
from aerialdreams.osm.knowledge import Element, Knowledge, SearchRadius, Zone, understand
from aerialdreams.util.files import atomic_file
from aerialdreams.util.retries import report_retry

ATTEMPTS = 6  # at one query
PARTIAL_ATTEMPTS = 2  # of them, that end in half an answer, before the zone is split
SPLITS = 2  # times that a zone is split into quarters
HOLD = 30.0  # seconds of rest after "too many requests"; the least that the servers ask for
LONGEST_HOLD = 600.0  # however long the server would like
WAIT, LONGEST_WAIT = 2.0, 120.0  # seconds after other failures, doubled with each
SERVER_SECONDS, SERVER_BYTES = 60, 64 * 2**20  # that the server may spend on one query
CONNECT, READ = 20.0, SERVER_SECONDS + 30.0  # seconds of silence that we bear
LONGEST = 3 * READ  # seconds that one answer may take in all
STAMP = re.compile(rb'"timestamp_osm_base":\s*"([^"]+)"')  # which overpy drops
LOOPBACK = ("localhost", "127.0.0.1", "::1")

# Outlines of communes that a border of which crosses the zone, and of quartiers; of what lies
# higher the tags alone. A global [bbox:] would break rel(pivot).
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
    """A response that another request may improve on, after `wait` seconds at least."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def _wait(state: RetryCallState) -> float:
    """Seconds before the next request."""
    error = state.outcome.exception() if state.outcome else None
    seconds = min(WAIT * 2 ** (state.attempt_number - 1), LONGEST_WAIT)
    if isinstance(error, _TransientError):
        seconds = max(seconds, error.wait)
    # So that clients that were cut off together do not return together.
    return seconds * random.uniform(1.0, 1.5)


class PartialAnswerError(Exception):
    """The server gave up in the middle of a query, in its own words."""


class Overpass:
    """An Overpass server and the folder of its answers.

    Args:
        server: address of its interpreter.
        user_agent: must name whom to write to.
        pause: seconds between requests; at least 1 for a server elsewhere.
        radius: how far to look for roads and places.
        folder: where answers are kept, one gzipped JSON per query.

    Raises:
        UserError: the user agent names nobody to write to, and the server is not on this machine.
    """

    def __init__(
        self, server: str, user_agent: str, pause: float, radius: SearchRadius, folder: Path
    ) -> None:
        self.server, self.pause = server, pause
        self.radius, self.folder = radius, folder
        if urlsplit(self.server).hostname not in LOOPBACK:
            if not re.search(r"\S@\S|https?://\S", user_agent):
                raise UserError(
                    f"osm_metadata.overpass.user_agent: {user_agent!r} names nobody to write to,"
                    f" which {self.server} asks of all who use it; add your e-mail or web address"
                )
            self.pause = max(1.0, self.pause)
        self.session = requests.Session()
        self.session.headers = {
            "User-Agent": user_agent,
            "Accept-Encoding": "gzip",
            "Accept": "*/*",
        }
        self.requests, self.split = 0, 0  # asked, and zones that were too big
        self.used: set[Path] = set()
        self._last = -1e9

    def zone(self, zone: Zone) -> Knowledge:
        """What the server knows of a zone.

        Raises:
            UserError: it refuses the query, or an answer on disk is damaged.
            WorkError: it cannot be reached, or does not answer in full.
        """
        answers = self._answers(zone, 0)
        merged: dict[tuple[str, int], Element] = {}
        for answer in answers:
            for element in elements_of(answer):
                # Of a commune, a quarter may have the tags alone, and its neighbour the outline.
                if element.lines or (element.kind, element.id) not in merged:
                    merged[element.kind, element.id] = element
        stamps = [found[1].decode() for found in map(STAMP.search, answers) if found]
        return understand(zone, merged.values(), min(stamps))

    def _answers(self, zone: Zone, splits: int) -> list[bytes]:
        """A zone's answer, or those of its quarters, in JSON."""
        path = self._path(zone)
        if not path.exists():
            begun = splits < SPLITS and any(self._path(part).exists() for part in zone.quarters())
            try:
                if begun:  # an earlier run found it too big
                    raise PartialAnswerError("is kept in quarters")
                self._keep(path, self._ask(zone))
            except PartialAnswerError as error:
                if splits == SPLITS:
                    raise WorkError(
                        f"{self.server}: did not answer for {zone} in full, not even for a"
                        f" sixteenth of it: {error}; try later, or another"
                        " osm_metadata.overpass.server; what came so far is kept"
                    ) from None
                self.split += splits == 0
                return [a for part in zone.quarters() for a in self._answers(part, splits + 1)]
        self.used.add(path)
        try:
            return [gzip.decompress(path.read_bytes())]
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"{path}: damaged ({error}); remove it and `dvc repro`") from None

    def _path(self, zone: Zone) -> Path:
        key = hashlib.sha256(f"{self.server}\n{query(zone, self.radius)}".encode()).hexdigest()
        return self.folder / f"{zone.domain}-{zone.name}-{key[:16]}.json.gz"

    def _keep(self, path: Path, body: bytes) -> None:
        with atomic_file(path) as partial:
            partial.write_bytes(gzip.compress(body, mtime=0))

    def _ask(self, zone: Zone) -> bytes:
        """The server's complete response for a zone, in as many requests as it takes.

        Raises:
            PartialAnswerError: the server gave up in the middle, `PARTIAL_ATTEMPTS` times.
            UserError: it refuses the query.
            WorkError: it has not answered in `ATTEMPTS` requests.
        """
        retrying = Retrying(
            retry=retry_if_exception_type((requests.RequestException, _TransientError)),
            stop=stop_after_attempt(ATTEMPTS),
            wait=_wait,
            before_sleep=report_retry(str(zone)),
            sleep=time.sleep,
            reraise=True,
        )
        partial = 0

        def request() -> bytes:
            nonlocal partial
            status, content_type, retry_after, body = self._send(query(zone, self.radius))
            text = f"HTTP {status}: {_words(body.decode(errors='replace'))}"
            if status == 200 and "html" not in content_type:
                flaw = flaw_of(body)
                if flaw is None:
                    return body
                partial += flaw.startswith("remark: ")
                if partial == PARTIAL_ATTEMPTS:
                    raise PartialAnswerError(flaw)
                raise _TransientError(flaw)
            if status in (200, 429):  # too many requests, or a page that says so
                raise _TransientError(text, max(HOLD, min(retry_after, LONGEST_HOLD)))
            if status in (408, 425) or status >= 500:
                raise _TransientError(text)
            raise UserError(
                f"{self.server}: refuses the query for {zone}: {text}; see osm_metadata.overpass in"
                " params.yaml (server, user_agent)"
            )

        try:
            return retrying(request)
        except (requests.RequestException, _TransientError) as error:
            raise WorkError(
                f"{self.server}: no answer for {zone} in {ATTEMPTS} attempts, the last:"
                f" {_words(str(error))}; what came so far is kept, `dvc repro` goes on from there"
            ) from None

    def _send(self, text: str) -> tuple[int, str, float, bytes]:
        """One request: status, content type, seconds of Retry-After, body."""
        time.sleep(max(0.0, self._last + self.pause - time.monotonic()))
        self.requests += 1
        began = time.monotonic()
        try:
            with self.session.post(
                self.server, data={"data": text}, timeout=(CONNECT, READ), stream=True
            ) as answer:
                body = bytearray()
                for chunk in answer.iter_content(2**16):
                    body += chunk
                    if time.monotonic() - began > LONGEST:
                        raise requests.Timeout(f"still sending after {LONGEST:.0f} s")
                after = answer.headers.get("Retry-After", "")
                return (
                    answer.status_code,
                    answer.headers.get("Content-Type", ""),
                    float(after) if after.isdigit() else 0.0,
                    bytes(body),
                )
        finally:
            self._last = time.monotonic()


def query(zone: Zone, radius: SearchRadius) -> str:
    """What to ask of a zone, in Overpass QL: boxes are south, west, north, east."""

    def box(margin: float) -> str:
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


def flaw_of(body: bytes) -> str | None:
    """Why an answer is no whole answer, or None. A server says 200 to much that is none."""
    try:
        answer = json.loads(body)
    except ValueError as error:
        return f"an answer of {len(body)} bytes that is no JSON or was cut ({error})"
    if not isinstance(answer, dict) or not isinstance(answer.get("elements"), list):
        return "an answer without elements"
    if "remark" in answer:  # in whatever words: the elements before it are not all
        return f"remark: {_words(str(answer['remark']))}"
    if not (answer.get("osm3s") or {}).get("timestamp_osm_base"):
        return "an answer without the date of its data"
    return None


def elements_of(answer: bytes) -> list[Element]:
    """An answer's elements, parsed by overpy."""
    result = overpy.Overpass().parse_json(answer)
    nodes = [
        Element("node", node.id, node.tags, [np.array([[float(node.lon), float(node.lat)]])])
        for node in result.nodes
    ]
    ways = [
        Element("way", way.id, way.tags, _line(way.attributes.get("geometry")), (), _middle(way))
        for way in result.ways
    ]
    relations = []
    for relation in result.relations:
        lines: dict[bool, list[np.ndarray]] = {False: [], True: []}
        for member in relation.members:
            if isinstance(member, overpy.RelationWay) and member.role in ("outer", "inner", ""):
                # One without points is not in the server's data: its gap tells.
                points = [(float(p.lon), float(p.lat)) for p in member.geometry or ()]
                if len(points) > 1:
                    lines[member.role == "inner"].append(np.array(points))
        # Without members the tags alone were asked for.
        outer = lines[False] if relation.members else None
        relations.append(
            Element("relation", relation.id, relation.tags, outer, lines[True], _middle(relation))
        )
    return [*nodes, *ways, *relations]


def _line(geometry: list[dict[str, float]] | None) -> list[np.ndarray]:
    if not geometry:
        return []
    return [np.array([(float(point["lon"]), float(point["lat"])) for point in geometry])]


def _middle(element: overpy.Way | overpy.Relation) -> tuple[float, float] | None:
    if element.center_lon is None:
        return None
    return float(element.center_lon), float(element.center_lat)


def _words(text: str) -> str:
    """The words of a page or message, on one line, the first few."""
    text = re.sub(r"<(head|style|script)\b.*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL)
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"{text[:300]} ..."
