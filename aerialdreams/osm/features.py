"""The features of a zone: OpenStreetMap's elements, classified by their tags and projected."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from aerialdreams.osm.zones import Points, Zone

# admin_level of `boundary=administrative` in France (wiki.openstreetmap.org/wiki/FR:Key:boundary).
LEVELS = {
    2: "country",
    3: "metropole",
    4: "region",
    6: "departement",
    7: "arrondissement",
    8: "commune",
    9: "arrondissement_municipal",
    10: "quartier",
}
# The level of municipalities, by ISO 3166 code of the country, where it is not 8
# (wiki.openstreetmap.org/wiki/Tag:boundary=administrative). In most other countries 4, 6 and 8 are
# much as in France: states or regions, counties or provinces, municipalities.
MUNICIPALITY_LEVELS = {"JP": 7, "NO": 7, "PL": 7, "PT": 7, "SE": 7, "DK": 7, "RO": 4, "IE": 6}
OUTLINED = (8, 9, 10)  # levels read with their outlines; those of the others are megabytes each
PLACES = ("city", "town", "village", "suburb", "quarter", "neighbourhood", "hamlet", "locality")
LANDSCAPE = ("landuse", "natural", "leisure", "amenity", "tourism", "railway")
# Values that are lines even if closed. All other closed ways of LANDSCAPE, but railways, are areas.
LINEAR = ("coastline", "cliff", "tree_row", "ridge", "valley")
EDGE = 1.0  # metres by which outlines reach beyond the zone, so that its edge lies inside


@dataclass(frozen=True)
class Element:
    """A node, way or relation, from either source.

    Attributes:
        kind: "node", "way" or "relation".
        id: OpenStreetMap's id, unique within the kind.
        tags: its tags.
        lines: arrays of (n, 2) degrees: a node's point, a way's line, or a relation's outer lines.
            None for a relation that was read without its geometry.
        inner: a relation's inner lines.
        centre: longitude and latitude of the centre of its bounds, where the source gives it.
    """

    kind: str
    id: int
    tags: dict[str, str]
    lines: Sequence[Points] | None = None
    inner: Sequence[Points] = ()
    centre: tuple[float, float] | None = None


@dataclass(frozen=True)
class Boundary:
    """An administrative area that touches a zone."""

    level: int  # a key of LEVELS
    name: str
    code: str | None  # INSEE's; for a country, ISO 3166
    postcode: str | None
    outline: shapely.Geometry | None  # in the zone's CRS; None if it was not read, or has gaps


@dataclass
class ZoneFeatures:
    """OpenStreetMap's features in one zone. Geometries are in the zone's CRS."""

    timestamp: str | None = None  # of the data, ISO 8601
    boundaries: list[Boundary] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)  # names of boundaries with gaps
    roads: list[tuple[shapely.Geometry, str]] = field(default_factory=list)  # with their names
    places: list[tuple[shapely.Geometry, str, str]] = field(default_factory=list)  # name, kind
    landscape: list[tuple[shapely.Geometry, str]] = field(default_factory=list)  # key=value
    waterways: list[tuple[shapely.Geometry, str]] = field(default_factory=list)  # names
    buildings: list[tuple[shapely.Geometry]] = field(default_factory=list)  # their centres

    @property
    def empty(self) -> bool:
        return not (self.boundaries or self.roads or self.places or self.landscape)


class _Feature(NamedTuple):
    """A feature before projection."""

    collection: str  # the field of ZoneFeatures that it belongs to
    points: Points
    is_area: bool
    labels: tuple[str, ...]  # what follows the geometry in that field's tuples


def zone_features(zone: Zone, elements: Iterable[Element], timestamp: str | None) -> ZoneFeatures:
    """Classify a zone's elements by their tags and project them to its CRS.

    Args:
        zone: the zone.
        elements: what the source selected for it.
        timestamp: of the data.
    """
    elements = list(elements)
    result = ZoneFeatures(timestamp)
    municipality = MUNICIPALITY_LEVELS.get(_country(elements) or "", 8)
    box = shapely.box(*zone.bounds).buffer(EDGE * zone.metre)
    features: list[_Feature] = []
    for element in elements:
        if element.kind == "relation":
            _add_boundary(result, element, zone, box, municipality)
        features += _classify(element)
    for feature, geometry in zip(features, _geometries(features, zone), strict=True):
        getattr(result, feature.collection).append((geometry, *feature.labels))
    return result


def _classify(element: Element) -> Iterator[_Feature]:
    """The features that an element's tags describe; an element can be several."""
    tags, is_way = element.tags, element.kind == "way"
    name = tags.get("name")
    if "building" in tags and element.kind != "node":
        centre = element.centre or bounds_centre(element.lines or ())
        yield _Feature("buildings", np.array([centre]), False, ())
    if element.kind == "relation" or not element.lines:
        return
    points = element.lines[0]
    if is_way and name and "highway" in tags:
        yield _Feature("roads", points, False, (name,))
    if is_way and name and "waterway" in tags:
        yield _Feature("waterways", points, False, (name,))
    if not is_way and name and tags.get("place") in PLACES:
        yield _Feature("places", points, False, (name, tags["place"]))
    for key in LANDSCAPE if is_way else ("amenity", "tourism"):
        if key in tags:
            closed = len(points) > 3 and np.array_equal(points[0], points[-1])
            is_area = closed and key != "railway" and tags[key] not in LINEAR
            yield _Feature("landscape", points, is_area, (f"{key}={tags[key]}",))


def _geometries(features: list[_Feature], zone: Zone) -> NDArray[Any]:
    """Points, lines and areas in the zone's CRS.

    All are built in one call of each function: building them singly takes ten times as long.
    """
    geometries = np.empty(len(features), dtype=object)
    if not features:
        return geometries
    lengths = np.array([len(feature.points) for feature in features])
    projected = zone.project(np.concatenate([feature.points for feature in features]))
    owner = np.repeat(np.arange(len(features)), lengths)  # of each point
    is_point = lengths == 1
    is_area = np.array([feature.is_area for feature in features])
    is_line = ~is_point & ~is_area
    geometries[is_point] = shapely.points(projected[is_point[owner]])
    for selected, build in ((is_line, shapely.linestrings), (is_area, shapely.linearrings)):
        indices = np.repeat(np.arange(selected.sum()), lengths[selected])
        geometries[selected] = build(projected[selected[owner]], indices=indices)
    geometries[is_area] = shapely.make_valid(shapely.polygons(geometries[is_area]))
    return geometries


def _add_boundary(
    features: ZoneFeatures,
    element: Element,
    zone: Zone,
    box: shapely.Geometry,
    municipality: int,
) -> None:
    """Add a relation to the boundaries if it is an administrative area with a name.

    Its outline is clipped to `box`. Areas of the level `municipality` become communes.
    """
    tags = element.tags
    name, level = tags.get("name"), level_of(tags)
    if not name or level is None:
        return
    outline = None
    if element.lines is not None:
        outline = outline_of(element.lines, element.inner)
        if outline is None:
            features.cut.append(name)
        else:
            outline = shapely.intersection(shapely.transform(outline, zone.project), box)
    elif level in (8, 9) or level == municipality:
        outline = box  # read without its outline because no border crosses the zone
    code = _country_code(tags) if level == 2 else tags.get("ref:INSEE")
    postcode = tags.get("postal_code") or tags.get("addr:postcode")
    if municipality != 8:
        level = {municipality: 8, 8: 10}.get(level, level)
    features.boundaries.append(Boundary(level, name, code, postcode, outline))


def _country(elements: Iterable[Element]) -> str | None:
    """ISO 3166 code of the only country among a zone's elements."""
    codes = {_country_code(e.tags) for e in elements if level_of(e.tags) == 2}
    return codes.pop() if len(codes) == 1 else None


def _country_code(tags: dict[str, str]) -> str | None:
    return tags.get("ISO3166-1:alpha2") or tags.get("ISO3166-1")


def level_of(tags: dict[str, str]) -> int | None:
    """The admin_level of an administrative area, or None for other elements and other levels."""
    # Relations of type multilinestring are borders between two areas.
    if tags.get("boundary") != "administrative" or tags.get("type") == "multilinestring":
        return None
    level = tags.get("admin_level", "")
    return int(level) if level.isdigit() and int(level) in LEVELS else None


def outline_of(outer: Sequence[Points], inner: Sequence[Points]) -> shapely.Geometry | None:
    """The area of a multipolygon relation.

    Args:
        outer: its outer lines, arrays of (n, 2), which join at their ends.
        inner: its inner lines.

    Returns:
        A polygon or multipolygon in the lines' coordinates, or None if the lines leave a gap.
    """
    area = _polygonize(outer)
    if area is None or not inner:
        return area
    holes = _polygonize(inner)
    return None if holes is None else shapely.difference(area, holes)


def _polygonize(lines: Sequence[Points]) -> shapely.Geometry | None:
    linestrings = [shapely.LineString(line) for line in lines]
    faces, cuts, dangles, invalid = shapely.polygonize_full(linestrings)
    if faces.is_empty or not (cuts.is_empty and dangles.is_empty and invalid.is_empty):
        return None
    return shapely.union_all(list(faces.geoms))


def bounds_centre(lines: Sequence[Points]) -> tuple[float, float]:
    """Longitude and latitude of the centre of the lines' bounds, rounded as Overpass does."""
    points = np.concatenate(lines)
    longitude, latitude = (points.min(0) + points.max(0)) / 2
    return round(float(longitude), 7), round(float(latitude), 7)
