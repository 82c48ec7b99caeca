"""Zones, OpenStreetMap's elements in them, and what these elements say."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.warp import transform, transform_bounds

from aerialdreams.data.flair import PATCH_SIZE, PIXEL_SIZE

LAMBERT, DEGREES = CRS.from_epsg(2154), CRS.from_epsg(4326)

# France's levels of `boundary=administrative` (wiki.openstreetmap.org/wiki/FR:Key:boundary).
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
OUTLINED = (8, 9, 10)  # levels of which the outlines are asked for; the others' are megabytes
PLACES = ("city", "town", "village", "suburb", "quarter", "neighbourhood", "hamlet", "locality")
LANDSCAPE = ("landuse", "natural", "leisure", "amenity", "tourism", "railway")
# Lines even where they are closed: the rest of LANDSCAPE's closed ways are areas.
LINEAR = ("coastline", "cliff", "tree_row", "ridge", "valley")

Bounds = tuple[float, float, float, float]  # west, south, east, north
Points = NDArray[np.float64]  # (n, 2): longitude, latitude


@dataclass(frozen=True)
class SearchRadius:
    """How far from a patch's centre roads and places are looked for, metres."""

    road: float
    place: float


@dataclass(frozen=True)
class Zone:
    """A part of a domain that was photographed as one, the unit in which OSM is asked."""

    domain: str
    name: str
    bounds: Bounds  # of its patches, metres in EPSG:2154

    def degrees(self, margin: float = 0.0) -> Bounds:
        """The bounds widened by some metres, in WGS 84, rounded as OSM rounds (1e-7 degrees)."""
        west, south, east, north = self.bounds
        wide = (west - margin, south - margin, east + margin, north + margin)
        west, south, east, north = transform_bounds(LAMBERT, DEGREES, *wide)
        return round(west, 7), round(south, 7), round(east, 7), round(north, 7)

    def quarters(self) -> list["Zone"]:
        """The zone in four, for a server to which it is too big."""
        west, south, east, north = self.bounds
        x, y = (west + east) / 2, (south + north) / 2
        parts = (west, y, x, north), (x, y, east, north), (west, south, x, y), (x, south, east, y)
        return [Zone(self.domain, self.name, part) for part in parts]

    def __str__(self) -> str:
        return f"{self.domain}/{self.name}"


@dataclass(frozen=True)
class Element:
    """A node, way or relation, from whichever source.

    `lines` are its points: one of a node, a line of a way, the outer lines of a relation. It is
    None for a relation of which only the tags were asked for.
    """

    kind: str
    id: int
    tags: dict[str, str]
    lines: Sequence[Points] | None = None
    inner: Sequence[Points] = ()  # of a relation
    centre: tuple[float, float] | None = None  # longitude, latitude, of its bounds


@dataclass(frozen=True)
class Boundary:
    """An administrative area that touches a zone."""

    level: int
    name: str
    code: str | None  # INSEE's; of a country, ISO 3166
    postcode: str | None
    outline: shapely.Geometry | None  # EPSG:2154, where it was asked for and is whole


@dataclass
class Knowledge:
    """What OSM knows of one zone, geometries in EPSG:2154."""

    timestamp: str | None = None  # of the data
    boundaries: list[Boundary] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)  # boundaries with gaps, at an extract's edge
    roads: list[tuple[shapely.Geometry, str]] = field(default_factory=list)
    places: list[tuple[shapely.Geometry, str, str]] = field(default_factory=list)  # name, kind
    landscape: list[tuple[shapely.Geometry, str]] = field(default_factory=list)  # key=value
    waterways: list[tuple[shapely.Geometry, str]] = field(default_factory=list)
    buildings: list[tuple[shapely.Geometry]] = field(default_factory=list)  # middles

    @property
    def empty(self) -> bool:
        return not (self.boundaries or self.roads or self.places or self.landscape)


def zones_of(index: pd.DataFrame) -> list[tuple[Zone, pd.DataFrame]]:
    """Each zone of the patch index with its patches, in order of their first patch."""
    side = PATCH_SIZE * PIXEL_SIZE
    zones = []
    for (domain, name), patches in index.groupby(["domain", "zone"], sort=False):
        x, y = patches["origin_x"], patches["origin_y"]
        west, south = round(float(x.min()), 1), round(float(y.min()) - side, 1)
        east, north = round(float(x.max()) + side, 1), round(float(y.max()), 1)
        zones.append((Zone(domain, name, (west, south, east, north)), patches))
    return zones


def understand(zone: Zone, elements: Iterable[Element], timestamp: str | None) -> Knowledge:
    """Sort a zone's elements by what they say, and put them on Lambert-93's plane."""
    known = Knowledge(timestamp)
    box = shapely.box(*zone.bounds).buffer(1.0)  # a metre, for what lies on the zone's edge
    said: list[tuple[str, Points, bool, tuple[str, ...]]] = []
    for element in elements:
        if element.kind == "relation":
            _take_boundary(known, element, box)
        said += _says(element)
    shapes = _shapes([points for _, points, _, _ in said], [solid for _, _, solid, _ in said])
    for (what, _, _, words), shape in zip(said, shapes, strict=True):
        getattr(known, what).append((shape, *words))
    return known


def _says(element: Element) -> Iterator[tuple[str, Points, bool, tuple[str, ...]]]:
    """To which of Knowledge's lists an element adds what: points, whether an area, words."""
    tags, way = element.tags, element.kind == "way"
    name = tags.get("name")
    if "building" in tags and element.kind != "node":
        middle = element.centre or bounds_centre(element.lines or ())
        yield "buildings", np.array([middle]), False, ()
    if element.kind == "relation" or not element.lines:
        return
    points = element.lines[0]
    if way and name and "highway" in tags:
        yield "roads", points, False, (name,)
    if way and name and "waterway" in tags:
        yield "waterways", points, False, (name,)
    if not way and name and tags.get("place") in PLACES:
        yield "places", points, False, (name, tags["place"])
    for key in LANDSCAPE if way else ("amenity", "tourism"):
        if key in tags:
            closed = len(points) > 3 and np.array_equal(points[0], points[-1])
            solid = closed and key != "railway" and tags[key] not in LINEAR
            yield "landscape", points, solid, (f"{key}={tags[key]}",)


def _shapes(drawn: list[Points], solid: list[bool]) -> NDArray[Any]:
    """Points, lines and areas in EPSG:2154, all in one go: one by one takes ten times as long."""
    shapes = np.empty(len(drawn), dtype=object)
    if not drawn:
        return shapes
    lengths = np.array([len(points) for points in drawn])
    flat = project(np.concatenate(drawn))
    owner = np.repeat(np.arange(len(drawn)), lengths)
    single, area = lengths == 1, np.array(solid)
    line = ~single & ~area
    shapes[single] = shapely.points(flat[single[owner]])
    for chosen, make in ((line, shapely.linestrings), (area, shapely.linearrings)):
        numbers = np.repeat(np.arange(chosen.sum()), lengths[chosen])
        shapes[chosen] = make(flat[chosen[owner]], indices=numbers)
    shapes[area] = shapely.make_valid(shapely.polygons(shapes[area]))
    return shapes


def _take_boundary(known: Knowledge, element: Element, box: shapely.Geometry) -> None:
    """Add an administrative area."""
    tags = element.tags
    name, level = tags.get("name"), level_of(tags)
    if not name or level is None:
        return
    outline = None
    if element.lines is not None:
        outline = outline_of(element.lines, element.inner)
        if outline is None:
            known.cut.append(name)
        else:
            outline = shapely.intersection(shapely.transform(outline, project), box)
    elif level in (8, 9):
        outline = box  # no border of it was sent, for none crosses the zone: it holds all of it
    country = tags.get("ISO3166-1:alpha2") or tags.get("ISO3166-1")
    code = country if level == 2 else tags.get("ref:INSEE")
    postcode = tags.get("postal_code") or tags.get("addr:postcode")
    known.boundaries.append(Boundary(level, name, code, postcode, outline))


def level_of(tags: dict[str, str]) -> int | None:
    """An administrative area's level, or None of what is none or has another level than LEVELS."""
    # A multilinestring is the border between two areas, and no area.
    if tags.get("boundary") != "administrative" or tags.get("type") == "multilinestring":
        return None
    level = tags.get("admin_level", "")
    return int(level) if level.isdigit() and int(level) in LEVELS else None


def outline_of(outer: Sequence[Points], inner: Sequence[Points]) -> shapely.Geometry | None:
    """The area within lines that join at their ends, or None where they leave a gap."""
    shape = _within(outer)
    if shape is None or not inner:
        return shape
    holes = _within(inner)
    return None if holes is None else shapely.difference(shape, holes)


def _within(lines: Sequence[Points]) -> shapely.Geometry | None:
    shapes = [shapely.LineString(line) for line in lines]
    faces, cuts, dangles, invalid = shapely.polygonize_full(shapes)
    if faces.is_empty or not (cuts.is_empty and dangles.is_empty and invalid.is_empty):
        return None
    return shapely.union_all(list(faces.geoms))


def bounds_centre(lines: Sequence[Points]) -> tuple[float, float]:
    """Middle of the bounds of some lines, as Overpass's `out center` rounds it."""
    points = np.concatenate(lines)
    middle = (points.min(0) + points.max(0)) / 2
    return round(float(middle[0]), 7), round(float(middle[1]), 7)


def project(points: Points) -> NDArray[np.float64]:
    """Longitudes and latitudes as metres in EPSG:2154."""
    if not len(points):
        return points
    x, y = transform(DEGREES, LAMBERT, points[:, 0], points[:, 1])
    return np.stack([x, y], 1)
