"""A zone's elements from OpenStreetMap extracts (.osm.pbf), the same that Overpass would give.

Only what lies near a zone is kept, and boundaries, so that memory grows with the zones and not with
the file. What pyosmium cannot hold in memory (its index of all nodes: 16 bytes a node) is too big:
cut the file to the zones first, see the README.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import osmium
import shapely

from aerialdreams.errors import UserError
from aerialdreams.osm.knowledge import (
    LANDSCAPE,
    OUTLINED,
    Element,
    Knowledge,
    Points,
    SearchRadius,
    Zone,
    bounds_centre,
    level_of,
    outline_of,
    understand,
)

KEYS = (*LANDSCAPE, "highway", "waterway", "place", "building")


@dataclass
class _Relation:
    """A boundary or building with its members' points, as far as the extract has them."""

    id: int
    tags: dict[str, str]
    members: list[tuple[str, int, str]]  # kind, id, role
    points: dict[tuple[str, int], Points] = field(default_factory=dict)

    def lines(self, *roles: str) -> list[Points]:
        return [
            self.points[kind, number]
            for kind, number, role in self.members
            if kind == "w" and role in roles and (kind, number) in self.points
        ]


class Extract:
    """What one or several extracts have near some zones.

    Args:
        path: an .osm.pbf, or a folder of them.
        zones: the zones.
        radius: how far to look for roads and places.

    Raises:
        UserError: nothing there, or a file is no whole OpenStreetMap file.
    """

    def __init__(self, path: Path, zones: list[Zone], radius: SearchRadius) -> None:
        files = sorted(path.glob("*.osm.pbf")) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            what = "has no .osm.pbf" if path.is_dir() else "not found"
            raise UserError(
                f"{path}: {what}; set osm_metadata.extract to an .osm.pbf of the area, or to a"
                " folder of them"
            )
        self.cut: set[str] = set()  # boundaries with gaps
        self._reach = {  # metres around a zone, by keys
            ("place",): radius.place,
            ("highway",): radius.road,
            (*LANDSCAPE, "waterway", "building"): 0.0,
        }
        self._elements: dict[tuple[str, int], Element] = {}
        relations: dict[int, _Relation] = {}
        stamps = set()
        boxes = shapely.STRtree([shapely.box(*z.degrees(radius.place)) for z in zones])
        for file in files:
            try:
                stamps.add(_timestamp(file))
                _read_relations(file, relations)
                for element in _read_elements(file, boxes):
                    # Where extracts overlap, each has the whole of a way.
                    self._elements.setdefault((element.kind, element.id), element)
            except RuntimeError as error:
                raise UserError(
                    f"{file}: not a whole OpenStreetMap file ({error}); fetch or cut it again"
                ) from None
        self.timestamp = min((stamp for stamp in stamps if stamp), default=None)
        self._boundaries = [r for r in relations.values() if "building" not in r.tags]
        for relation in relations.values():
            if "building" in relation.tags and relation.points:
                middle = bounds_centre(list(relation.points.values()))
                element = Element("relation", relation.id, relation.tags, centre=middle)
                self._elements["relation", relation.id] = element
        self._index()

    def _index(self) -> None:
        """Search trees over what was read, in degrees."""
        self._held = list(self._elements.values())
        self._trees = {}
        for keys in self._reach:
            numbers = [n for n, e in enumerate(self._held) if not e.tags.keys().isdisjoint(keys)]
            tree = shapely.STRtree([_shape(self._held[number]) for number in numbers])
            self._trees[keys] = np.array(numbers, dtype=int), tree
        borders, owners, areas, whole = [], [], [], []
        for relation in self._boundaries:
            for points in relation.points.values():
                shape = shapely.LineString(points) if len(points) > 1 else shapely.Point(points[0])
                borders.append(shape)
                owners.append(relation)
            outline = outline_of(relation.lines("outer", ""), relation.lines("inner"))
            if outline is None:
                self.cut.add(relation.tags.get("name", f"relation {relation.id}"))
            else:
                areas.append(outline)
                whole.append(relation)
        self._borders, self._owners = shapely.STRtree(borders), owners
        self._areas, self._whole = shapely.STRtree(areas), whole

    def zone(self, zone: Zone) -> Knowledge:
        """What the extracts know of a zone."""
        west, south, east, north = zone.degrees()
        box = shapely.box(west, south, east, north)
        middle = shapely.Point((west + east) / 2, (south + north) / 2)
        crossing = {self._owners[i].id for i in self._borders.query(box, predicate="intersects")}
        inside = {self._whole[i].id for i in self._areas.query(middle, predicate="intersects")}
        elements = [
            self._boundary(relation, relation.id in crossing)
            for relation in self._boundaries
            if relation.id in crossing | inside
        ]
        # Each kind within its own distance, as the query for Overpass asks for them.
        found: dict[int, dict[str, str]] = {}
        for keys, margin in self._reach.items():
            near = shapely.box(*zone.degrees(margin))
            numbers, tree = self._trees[keys]
            for number in numbers[np.sort(tree.query(near, predicate="intersects"))].tolist():
                tags = found.setdefault(number, {"name": self._held[number].tags.get("name", "")})
                tags |= {k: v for k, v in self._held[number].tags.items() if k in keys}
        for number, tags in found.items():
            held = self._held[number]
            elements.append(Element(held.kind, held.id, tags, held.lines, (), held.centre))
        return understand(zone, elements, self.timestamp)

    def _boundary(self, relation: _Relation, crosses: bool) -> Element:
        """A boundary with its outline where Overpass is asked for it, else with its tags."""
        level = int(relation.tags["admin_level"])
        if level in OUTLINED and (crosses or level == 10):
            outer, inner = relation.lines("outer", ""), relation.lines("inner")
            return Element("relation", relation.id, relation.tags, outer, inner)
        return Element("relation", relation.id, relation.tags)


def _timestamp(file: Path) -> str | None:
    """The date that the extract's header gives its data."""
    with osmium.io.Reader(str(file)) as reader:
        header = reader.header()
        return header.get("osmosis_replication_timestamp") or header.get("timestamp") or None


def _read_relations(file: Path, relations: dict[int, _Relation]) -> None:
    """Add a file's boundaries and buildings of several ways, or what it has of them."""
    elements = osmium.FileProcessor(str(file), osmium.osm.RELATION).with_filter(
        osmium.filter.KeyFilter("boundary", "building")
    )
    for element in elements:
        tags = dict(element.tags)
        if "building" in tags or level_of(tags) is not None:
            members = [(member.type, member.ref, member.role) for member in element.members]
            relations.setdefault(element.id, _Relation(element.id, tags, members))
    owners: dict[tuple[str, int], list[_Relation]] = {}
    for relation in relations.values():
        for kind, number, _ in relation.members:
            owners.setdefault((kind, number), []).append(relation)
    for kind, entity in (("n", osmium.osm.NODE), ("w", osmium.osm.NODE | osmium.osm.WAY)):
        wanted = [number for k, number in owners if k == kind]
        if not wanted:
            continue
        members = osmium.FileProcessor(str(file), entity).with_filter(
            osmium.filter.IdFilter(wanted)
        )
        for member in members.with_locations() if kind == "w" else members:
            if member.is_way() is (kind == "w") and (points := _points(member)) is not None:
                for relation in owners.get((kind, member.id), ()):
                    relation.points.setdefault((kind, member.id), points)


def _read_elements(file: Path, boxes: shapely.STRtree) -> Iterator[Element]:
    """A file's nodes and ways that may matter to a zone."""
    elements = (
        osmium.FileProcessor(str(file), osmium.osm.NODE | osmium.osm.WAY)
        .with_locations()
        .with_filter(osmium.filter.KeyFilter(*KEYS))
    )
    for element in elements:
        points = _points(element)
        if points is None:
            continue
        kind = "way" if element.is_way() else "node"
        held = Element(kind, element.id, dict(element.tags), [points])
        if len(boxes.query(_shape(held))):
            yield held


def _points(element: osmium.osm.Node | osmium.osm.Way) -> Points | None:
    """Longitudes and latitudes, or None of a way of which the extract has less than a line."""
    if element.is_node():
        return np.array([[element.location.lon, element.location.lat]])
    points = [(node.lon, node.lat) for node in element.nodes if node.location.valid()]
    return np.array(points) if len(points) > 1 else None


def _shape(element: Element) -> shapely.Geometry:
    if element.centre:
        return shapely.Point(element.centre)
    (points,) = element.lines or ()
    return shapely.LineString(points) if len(points) > 1 else shapely.Point(points[0])
