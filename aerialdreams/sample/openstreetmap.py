"""The sample data's OpenStreetMap extract: boundaries, places and roads.

Each domain is a département, a strip of communes from west to east. A commune's border runs
through the middle of every other zone. Two départements form a region. All names are invented.
Positions are in metres, EPSG:2154.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import osmium
from numpy.typing import NDArray
from rasterio.warp import transform

COMMUNES = ("Montclair", "Beauval", "Saint-Aubin", "Fontréal", "Villebelle", "Rochegrise")
SUFFIXES = ("sur-Lisse", "les-Bois", "le-Vieux", "en-Songe", "la-Prairie", "sous-Brume")
DEPARTEMENTS = ("Haute-Lisse", "Val-d'Orme", "Monts-de-Brume", "Basse-Lisse", "Cinq-Étangs")
REGIONS = ("Pays des Songes", "Grand-Vallon", "Rives d'Argent", "Hautes-Brandes")
STREETS = ("Rue des Tilleuls", "Rue du Moulin", "Rue de l'Église", "Avenue de la Gare",
           "Rue des Écoles", "Rue Molière", "Allée des Cerisiers", "Rue du Lavoir")  # fmt: skip
TRACKS = ("Chemin des Vignes", "Chemin du Gué", "Route des Crêtes", "Chemin Vert")

MARGIN = 1500.0  # metres between a domain's zones and its border


@dataclass(frozen=True)
class ZoneRoads:
    """Position and roads of a zone, in metres: x to the east, y to the north."""

    domain: str
    west: float
    north: float
    side: float
    # Kind (street or track) and line of each road, (points, 2), from the north-west corner.
    roads: list[tuple[str, NDArray[np.float64]]]


class _Writer:
    """Writes OSM elements and numbers them. Nodes at the same position are shared."""

    def __init__(self, path: Path) -> None:
        header = osmium.io.Header()
        header.set("generator", "aerialdreams sample world")
        self.out = osmium.SimpleWriter(str(path), header=header)
        self.last_id = 0
        self.node_ids: dict[tuple[float, float], int] = {}
        self.elements: list[tuple[str, osmium.osm.mutable.OSMObject]] = []

    def nodes(self, points: NDArray[np.float64], **tags: str) -> list[int]:
        longitudes, latitudes = transform("EPSG:2154", "EPSG:4326", points[:, 0], points[:, 1])
        ids = []
        for point, location in zip(points, zip(longitudes, latitudes, strict=True), strict=True):
            key = (round(float(point[0]), 2), round(float(point[1]), 2))
            if key not in self.node_ids or tags:
                self.node_ids[key] = self._next()
                node = osmium.osm.mutable.Node(
                    id=self.last_id, version=1, location=location, tags=tags
                )
                self.elements.append(("node", node))
            ids.append(self.node_ids[key])
        return ids

    def way(self, points: NDArray[np.float64], **tags: str) -> int:
        nodes = self.nodes(points)
        way = osmium.osm.mutable.Way(id=self._next(), version=1, nodes=nodes, tags=tags)
        self.elements.append(("way", way))
        return self.last_id

    def boundary(self, ways: list[int], level: int, name: str, **tags: str) -> None:
        members = [("w", way, "outer") for way in ways]
        tags |= {"type": "boundary", "boundary": "administrative"}
        tags |= {"admin_level": str(level), "name": name}
        relation = osmium.osm.mutable.Relation(
            id=self._next(), version=1, members=members, tags=tags
        )
        self.elements.append(("relation", relation))

    def close(self) -> None:
        """Write all nodes, then ways, then relations, the order that readers expect."""
        for kind, add in (
            ("node", self.out.add_node),
            ("way", self.out.add_way),
            ("relation", self.out.add_relation),
        ):
            for element_kind, element in self.elements:
                if element_kind == kind:
                    add(element)
        self.out.close()

    def _next(self) -> int:
        self.last_id += 1
        return self.last_id


def write_extract(path: Path, zones: list[ZoneRoads], seed: int) -> None:
    """Write the extract of all zones as an .osm.pbf file.

    Args:
        path: the file, which must not exist.
        zones: the zones, those of a domain from west to east.
        seed: seed for the shapes of borders and the choice of names.
    """
    writer = _Writer(path)
    domains = list(dict.fromkeys(zone.domain for zone in zones))
    names = [f"{first}-{second}" for second in SUFFIXES for first in COMMUNES]
    rings: list[list[int]] = []
    for number, domain in enumerate(domains):
        rng = np.random.default_rng([seed, number])
        domain_zones = [zone for zone in zones if zone.domain == domain]
        code = domain[2:4]
        ring, count = _communes(writer, domain_zones, names, code, rng)
        names = names[count:] + names[:count]
        departement = DEPARTEMENTS[number % len(DEPARTEMENTS)]
        if number >= len(DEPARTEMENTS):
            departement += f"-{number // len(DEPARTEMENTS) + 1}"
        writer.boundary(ring, 6, departement, **{"ref:INSEE": code})
        rings.append(ring)
        for zone in domain_zones:
            _roads(writer, zone, rng)
            corner = np.array([[zone.west + zone.side * 0.8, zone.north - zone.side * 0.2]])
            hamlet = f"Le {('Mas', 'Clos', 'Hameau')[rng.integers(3)]} {rng.integers(2, 99)}"
            writer.nodes(corner + rng.normal(0, 30, 2), place="hamlet", name=hamlet)
    for first in range(0, len(rings), 2):
        ways = [way for ring in rings[first : first + 2] for way in ring]
        writer.boundary(ways, 4, REGIONS[first // 2 % len(REGIONS)])
    writer.boundary([way for ring in rings for way in ring], 2, "France")
    writer.close()


def _communes(
    writer: _Writer, zones: list[ZoneRoads], names: list[str], code: str, rng: np.random.Generator
) -> tuple[list[int], int]:
    """Write a domain's communes; return the ids of its outer ways and the number of communes."""
    west = min(zone.west for zone in zones) - MARGIN
    east = max(zone.west + zone.side for zone in zones) + MARGIN
    north = max(zone.north for zone in zones) + MARGIN
    south = min(zone.north - zone.side for zone in zones) - MARGIN
    centres = [zone.west + zone.side / 2 for zone in zones[::2]]
    edges = [west, *centres, east]
    borders = []
    for x in edges:
        y = np.linspace(south, north, 60)
        # Borders bend between the ends of the strip, where they must meet its corners.
        bend = 40 * np.sin(y / rng.uniform(60, 120)) * np.sin(np.pi * np.linspace(0, 1, 60))
        bend[[0, -1]] = 0
        borders.append(writer.way(np.stack([x + bend * (x in centres), y], 1)))
    ring = [borders[0], borders[-1]]
    for number, (left, right) in enumerate(pairwise(edges)):
        top = writer.way(np.array([[left, north], [right, north]]))
        bottom = writer.way(np.array([[left, south], [right, south]]))
        ring += [top, bottom]
        sides = [borders[number], top, borders[number + 1], bottom]
        insee = f"{code}{number + 1:03d}"
        writer.boundary(sides, 8, names[number], **{"ref:INSEE": insee})
        centre = np.array([[(left + right) / 2, (north + south) / 2]])
        writer.nodes(centre, place="village", name=names[number])
    return ring, len(edges) - 1


def _roads(writer: _Writer, zone: ZoneRoads, rng: np.random.Generator) -> None:
    for kind, line in zone.roads:
        points = line + np.array([zone.west, zone.north])
        if kind == "street":
            name = STREETS[rng.integers(len(STREETS))]
            writer.way(points, highway="residential", name=name)
        elif rng.random() < 0.5:
            writer.way(points, highway="track", name=TRACKS[rng.integers(len(TRACKS))])
        else:
            writer.way(points, highway="track")  # without a name, as most farm tracks
