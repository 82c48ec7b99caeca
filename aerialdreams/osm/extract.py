"""Reads zones from OpenStreetMap extracts (.osm.pbf), with the same elements as Overpass returns.

Only boundaries and the elements near a zone are kept, so memory grows with the zones and not with
the file. The exception is pyosmium's index of node locations, 16 bytes per node in the file: cut a
large extract to the zones first, as docs/places.md shows.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import osmium
import shapely

from aerialdreams.errors import UserError
from aerialdreams.osm.features import (
    LANDSCAPE,
    OUTLINED,
    Element,
    ZoneFeatures,
    bounds_centre,
    level_of,
    outline_of,
    zone_features,
)
from aerialdreams.osm.zones import Points, SearchRadius, Zone

KEYS = (*LANDSCAPE, "highway", "waterway", "place", "building")


@dataclass
class _Relation:
    """A boundary or building, with the points of those members that the extract contains."""

    id: int
    tags: dict[str, str]
    members: list[tuple[str, int, str]]  # kind, id, role
    points: dict[tuple[str, int], Points] = field(default_factory=dict)  # by kind and id

    def lines(self, *roles: str) -> list[Points]:
        """Lines of the member ways that have one of the roles."""
        return [
            self.points[kind, member_id]
            for kind, member_id, role in self.members
            if kind == "w" and role in roles and (kind, member_id) in self.points
        ]


class Extract:
    """The elements of one or several extracts near the given zones.

    Args:
        path: an .osm.pbf file, or a folder of them.
        zones: the zones.
        radius: maximum distances to roads and places.

    Attributes:
        cut: names of boundaries with gaps, as at the edge of an extract.
        timestamp: of the data, the oldest of the files; None if no file has one.

    Raises:
        UserError: no file is found, or a file is not a complete OpenStreetMap file.
    """

    def __init__(self, path: Path, zones: list[Zone], radius: SearchRadius) -> None:
        files = sorted(path.glob("*.osm.pbf")) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            problem = "contains no .osm.pbf file" if path.is_dir() else "not found"
            raise UserError(
                f"{path}: {problem}; set osm_metadata.extract to an .osm.pbf file of the area,"
                " or to a folder of them"
            )
        self.cut: set[str] = set()
        self._margins = {  # metres around a zone within which elements with these keys are read
            ("place",): radius.place,
            ("highway",): radius.road,
            (*LANDSCAPE, "waterway", "building"): 0.0,
        }
        self._elements: dict[tuple[str, int], Element] = {}
        relations: dict[int, _Relation] = {}
        timestamps = set()
        boxes = shapely.STRtree([shapely.box(*z.degrees(radius.place)) for z in zones])
        for file in files:
            try:
                timestamps.add(_timestamp(file))
                _read_relations(file, relations)
                ids = set[tuple[str, int]]()
                for element in _read_elements(file, boxes):
                    key = element.kind, element.id
                    if key in ids:
                        raise UserError(_history(file))
                    ids.add(key)
                    # Overlapping extracts both contain the whole way.
                    self._elements.setdefault(key, element)
            except RuntimeError as error:
                raise UserError(
                    f"{file}: not a complete OpenStreetMap file ({error}); download or cut it again"
                ) from None
        self.timestamp = min(filter(None, timestamps), default=None)
        self._boundaries = [r for r in relations.values() if "building" not in r.tags]
        for relation in relations.values():
            if "building" in relation.tags and relation.points:
                centre = bounds_centre(list(relation.points.values()))
                element = Element("relation", relation.id, relation.tags, centre=centre)
                self._elements["relation", relation.id] = element
        self._build_trees()

    def _build_trees(self) -> None:
        """Build search trees over elements, borders and areas, in degrees."""
        self._element_list = list(self._elements.values())
        self._element_trees = {}
        for keys in self._margins:
            positions = [
                position
                for position, element in enumerate(self._element_list)
                if not element.tags.keys().isdisjoint(keys)
            ]
            tree = shapely.STRtree([_geometry(self._element_list[p]) for p in positions])
            self._element_trees[keys] = np.array(positions, dtype=int), tree
        borders, border_relations, areas, area_relations = [], [], [], []
        for relation in self._boundaries:
            for points in relation.points.values():
                borders.append(_point_or_line(points))
                border_relations.append(relation)
            outline = outline_of(relation.lines("outer", ""), relation.lines("inner"))
            if outline is None:
                self.cut.add(relation.tags.get("name", f"relation {relation.id}"))
            else:
                areas.append(outline)
                area_relations.append(relation)
        self._borders, self._border_relations = shapely.STRtree(borders), border_relations
        self._areas, self._area_relations = shapely.STRtree(areas), area_relations

    def read_zone(self, zone: Zone) -> ZoneFeatures:
        """The features of a zone."""
        west, south, east, north = zone.degrees()
        box = shapely.box(west, south, east, north)
        centre = shapely.Point((west + east) / 2, (south + north) / 2)
        crossing = {
            self._border_relations[i].id for i in self._borders.query(box, predicate="intersects")
        }
        containing = {
            self._area_relations[i].id for i in self._areas.query(centre, predicate="intersects")
        }
        elements = [
            self._boundary(relation, relation.id in crossing)
            for relation in self._boundaries
            if relation.id in crossing | containing
        ]
        # An element keeps only the keys within whose margin it lies, as in the Overpass query.
        tags_by_position: dict[int, dict[str, str]] = {}
        for keys, margin in self._margins.items():
            near = shapely.box(*zone.degrees(margin))
            positions, tree = self._element_trees[keys]
            hits = np.sort(tree.query(near, predicate="intersects"))
            for position in positions[hits].tolist():
                all_tags = self._element_list[position].tags
                tags = tags_by_position.setdefault(position, {"name": all_tags.get("name", "")})
                tags |= {key: value for key, value in all_tags.items() if key in keys}
        for position, tags in tags_by_position.items():
            element = self._element_list[position]
            elements.append(
                Element(element.kind, element.id, tags, element.lines, (), element.centre)
            )
        return zone_features(zone, elements, self.timestamp)

    def _boundary(self, relation: _Relation, crosses: bool) -> Element:
        """A boundary, with its outline only where the Overpass query asks for outlines."""
        level = int(relation.tags["admin_level"])
        if level in OUTLINED and (crosses or level == 10):
            outer, inner = relation.lines("outer", ""), relation.lines("inner")
            return Element("relation", relation.id, relation.tags, outer, inner)
        return Element("relation", relation.id, relation.tags)


def _history(file: Path) -> str:
    """Why a history file is rejected: its first versions have the oldest names."""
    return (
        f"{file}: has several versions of the same object, as history files do; extract one state"
        " with `osmium time-filter`"
    )


def _timestamp(file: Path) -> str | None:
    """The date of the data in an extract's header, or None."""
    with osmium.io.Reader(str(file)) as reader:
        header = reader.header()
        if header.has_multiple_object_versions:
            raise UserError(_history(file))
        return header.get("osmosis_replication_timestamp") or header.get("timestamp") or None


def _read_relations(file: Path, relations: dict[int, _Relation]) -> None:
    """Add a file's boundary and building relations, with the member lines that it contains."""
    elements = osmium.FileProcessor(str(file), osmium.osm.RELATION).with_filter(
        osmium.filter.KeyFilter("boundary", "building")
    )
    for element in elements:
        tags = dict(element.tags)
        if "building" in tags or level_of(tags) is not None:
            members = [(member.type, member.ref, member.role) for member in element.members]
            relations.setdefault(element.id, _Relation(element.id, tags, members))
    parents: dict[tuple[str, int], list[_Relation]] = {}  # relations of each member
    for relation in relations.values():
        for kind, member_id, _ in relation.members:
            parents.setdefault((kind, member_id), []).append(relation)
    for kind, entity in (("n", osmium.osm.NODE), ("w", osmium.osm.NODE | osmium.osm.WAY)):
        member_ids = [member_id for member_kind, member_id in parents if member_kind == kind]
        if not member_ids:
            continue
        members = osmium.FileProcessor(str(file), entity).with_filter(
            osmium.filter.IdFilter(member_ids)
        )
        for member in members.with_locations() if kind == "w" else members:
            if member.is_way() is (kind == "w") and (points := _points(member)) is not None:
                for relation in parents.get((kind, member.id), ()):
                    relation.points.setdefault((kind, member.id), points)


def _read_elements(file: Path, boxes: shapely.STRtree) -> Iterator[Element]:
    """A file's nodes and ways with one of KEYS that intersect one of the boxes."""
    objects = (
        osmium.FileProcessor(str(file), osmium.osm.NODE | osmium.osm.WAY)
        .with_locations()
        .with_filter(osmium.filter.KeyFilter(*KEYS))
    )
    for osm_object in objects:
        points = _points(osm_object)
        if points is None:
            continue
        kind = "way" if osm_object.is_way() else "node"
        element = Element(kind, osm_object.id, dict(osm_object.tags), [points])
        if len(boxes.query(_geometry(element))):
            yield element


def _points(element: osmium.osm.Node | osmium.osm.Way) -> Points | None:
    """Longitudes and latitudes, or None for a way with fewer than two nodes in the extract."""
    if element.is_node():
        return np.array([[element.location.lon, element.location.lat]])
    points = [(node.lon, node.lat) for node in element.nodes if node.location.valid()]
    return np.array(points) if len(points) > 1 else None


def _geometry(element: Element) -> shapely.Geometry:
    if element.centre:
        return shapely.Point(element.centre)
    (points,) = element.lines or ()
    return _point_or_line(points)


def _point_or_line(points: Points) -> shapely.Geometry:
    return shapely.LineString(points) if len(points) > 1 else shapely.Point(points[0])
