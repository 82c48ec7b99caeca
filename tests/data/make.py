"""Make the invented files of tests/data: `python tests/data/make.py`, the same bytes every time."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import osmium
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.warp import transform

HERE = Path(__file__).parent
MASK_CRS = (
    'LOCAL_CS["RGF93 v1 / Lambert-93",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
)
# Patch id: domain, zone, north-west corner, whether the mask has the EPSG code.
PATCHES: dict[str, tuple[str, str, tuple[float, float], bool]] = {
    "000473": ("D004_2021", "Z6_NU", (961436.8000000101, 6329262.4), False),
    "034217": ("D051_2019", "Z15_UN", (831078.4, 6829260.8), False),
    "084558": ("D036_2020", "Z17_UA", (606412.8, 6636646.4), True),
}
SIZE, PIXEL = 512, 0.2000000000000001


def make_flair(folder: Path) -> None:
    """Three patches: 5-band images and masks, constant on 2 x 2 pixels as FLAIR's labels are."""
    metadata: dict[str, dict[str, Any]] = {}
    for number, (patch_id, (domain, zone, origin, with_code)) in enumerate(PATCHES.items()):
        rng = np.random.default_rng(number)
        mask = draw_mask(rng)
        colours = rng.integers(40, 216, (20, 5))
        grain = rng.integers(0, 4, (5, SIZE // 8, SIZE // 8)).repeat(8, 1).repeat(8, 2)
        bands = (colours[mask].transpose(2, 0, 1) + grain).astype(np.uint8)
        where = Affine(PIXEL, 0, origin[0], 0, -PIXEL, origin[1])
        for kind, pixels, crs in (
            ("IMG", bands, "EPSG:2154"),
            ("MSK", mask[None], "EPSG:2154" if with_code else MASK_CRS),
        ):
            path = folder / domain / zone / kind.lower() / f"{kind}_{patch_id}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            profile = {"count": len(pixels), "height": SIZE, "width": SIZE, "dtype": "uint8"}
            with rasterio.open(
                path, "w", "GTiff", crs=crs, transform=where, compress="zstd", **profile
            ) as file:
                file.write(pixels)
        entry: dict[str, Any] = {
            "domain": domain,
            "zone": zone,
            "patch_centroid_x": round(origin[0] + 37.1, 2),  # metres off the centre, as IGN's are
            "patch_centroid_y": round(origin[1] - 32.0, 2),
        }
        if number == 2:
            entry |= {"patch_centroid_z": 103.7}
        entry |= {"date": f"{domain[5:]}-07-0{number + 1}", "camera": f"CAMERA#{number:03}"}
        if number == 2:
            entry |= {"time": "14h54"}
        metadata[f"IMG_{patch_id}"] = entry
    metadata["IMG_099999"] = {"domain": "D099_2020", "zone": "Z1_UU", "date": "2020-01-01"}
    text = json.dumps(metadata, indent=1)
    (folder / "flair-1_metadata_aerial.json").write_text(text + "\n")


def draw_mask(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Fields with a road and houses, on 2 x 2 pixels; every class of FLAIR but the rarest."""
    half = SIZE // 2
    mask = rng.integers(5, 13, (4, 4), np.uint8).repeat(half // 4, 0).repeat(half // 4, 1)
    mask[half // 2 - 6 : half // 2 + 6] = 3
    for _ in range(12):
        y, x = rng.integers(0, half - 12, 2)
        mask[y : y + 10, x : x + 12] = rng.integers(1, 5)
    return mask.repeat(2, 0).repeat(2, 1)


WEST, SOUTH = 1_040_000.0, 6_320_000.0
SIDE = 1024.0  # of a zone, metres
ZONES = {
    "two-communes": (WEST, SOUTH),
    "one-commune": (WEST + 3000, SOUTH),
    "open-sea": (WEST + 30_000, SOUTH),
    "cut-commune": (WEST + 6000, SOUTH),
}
STAMP = "2016-03-05T00:26:02Z"
Point = tuple[float, float]


@dataclass
class Way:
    """A line of points, metres in EPSG:2154; absent from the extract if it was cut away."""

    points: list[Point]
    tags: dict[str, str] = field(default_factory=dict)
    absent: bool = False
    id: int = 0


@dataclass
class Node:
    """A point."""

    point: Point
    tags: dict[str, str]
    id: int = 0


@dataclass
class Relation:
    """A boundary."""

    members: list[Way]
    tags: dict[str, str]
    id: int = 0


@dataclass
class Ground:
    """All elements."""

    nodes: list[Node] = field(default_factory=list)
    ways: list[Way] = field(default_factory=list)
    relations: list[Relation] = field(default_factory=list)


def draw_ground() -> Ground:
    """Communes, roads, houses, fields and places around three of the zones; the sea has none."""
    ground = Ground()
    border_a = boundary(ground, 8, "Valbrune", (WEST - 1000, WEST + 600), ref="06901")
    border_b = boundary(ground, 8, "Roquefeu", (WEST + 600, WEST + 5000), ref="06902")
    border_c = boundary(ground, 8, "Les Pinèdes", (WEST + 5000, WEST + 6500), ref="06903")
    border_c.members[0].absent = True  # its southern edge was cut away
    for border, postcode in ((border_a, "06990"), (border_b, "06991")):
        border.tags["postal_code"] = postcode
    boundary(ground, 10, "Le Port", (WEST + 100, WEST + 500), depth=(200, 700))
    wide = (WEST - 9000, WEST + 9000)
    boundary(ground, 7, "Valbrune-et-Monts", wide, margin=9000)
    boundary(ground, 6, "Alpes-du-Large", wide, margin=9500, ref="06")
    boundary(ground, 4, "Rivage-et-Alpes", wide, margin=9800, ref="93")
    boundary(ground, 2, "France", wide, margin=9900)
    ground.relations[-1].tags["ISO3166-1"] = "FR"
    for name, buildings in (("two-communes", 40), ("one-commune", 30), ("cut-commune", 20)):
        draw_zone(ground, name, buildings)
    for number, element in enumerate((*ground.nodes, *ground.ways, *ground.relations), start=1001):
        element.id = number
    return ground


def boundary(
    ground: Ground,
    level: int,
    name: str,
    across: Point,
    ref: str = "",
    margin: float = 1500.0,
    depth: Point | None = None,
) -> Relation:
    """An administrative area, rectangular, of four ways."""
    west, east = across
    south, north = SOUTH - margin, SOUTH + SIDE + margin
    if depth:
        south, north = SOUTH + depth[0], SOUTH + depth[1]
    corners = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    ways = [Way([corners[i], corners[i + 1]]) for i in range(4)]
    tags = {"type": "boundary", "boundary": "administrative", "admin_level": str(level)}
    tags |= {"name": name} | ({"ref:INSEE": ref} if ref else {})
    relation = Relation(ways, tags)
    ground.ways += ways
    ground.relations.append(relation)
    return relation


def draw_zone(ground: Ground, name: str, buildings: int) -> None:
    """Named roads, houses, fields, a stream, a railway, a school and a village in a zone."""
    west, south = ZONES[name]
    rng = np.random.default_rng(len(name))
    street = {"highway": "residential"}
    for number, y in enumerate(np.arange(40.0, SIDE, 200.0)):
        line = [(west + 5, south + y), (west + SIDE - 5, south + y + 20)]
        ground.ways.append(Way(line, street | {"name": f"Rue {number + 1} ({name})"}))
    stream = [(west + 10, south + 900), (west + 800, south + 500)]
    ground.ways.append(Way(stream, {"waterway": "stream", "name": "Le Ruisseau"}))
    ground.ways.append(Way([(west + 20, south), (west + 20, south + 900)], {"railway": "rail"}))
    for x, y, tags in (
        (100, 100, {"landuse": "residential"}),
        (600, 100, {"natural": "wood"}),
        (100, 600, {"leisure": "park"}),
        (600, 600, {"landuse": "vineyard"}),
    ):
        ground.ways.append(Way(square(west + x, south + y, 300), tags))
    for _ in range(buildings):
        x, y = rng.uniform(10, SIDE - 30, 2)
        ground.ways.append(Way(square(west + x, south + y, 12), {"building": "yes"}))
    middle = (west + SIDE / 2, south + SIDE / 2)
    ground.nodes.append(Node(middle, {"place": "village", "name": f"Village ({name})"}))
    ground.nodes.append(Node((middle[0] + 50, middle[1]), {"amenity": "school"}))


def square(west: float, south: float, side: float) -> list[Point]:
    """A closed ring."""
    corners = [(west, south), (west + side, south), (west + side, south + side)]
    return [*corners, (west, south + side), (west, south)]


def degrees(points: list[Point]) -> list[Point]:
    """Longitudes and latitudes, as OpenStreetMap rounds them."""
    xs, ys = zip(*points, strict=True)
    longitudes, latitudes = transform("EPSG:2154", "EPSG:4326", xs, ys)
    return [(round(x, 7), round(y, 7)) for x, y in zip(longitudes, latitudes, strict=True)]


def write_extract(path: Path, ground: Ground) -> None:
    """Write an .osm.pbf: nodes, ways, relations."""
    path.unlink(missing_ok=True)
    header = osmium.io.Header()
    header.set("generator", "tests/data/make.py")
    header.set("timestamp", STAMP)
    header.set("osmosis_replication_timestamp", STAMP)
    writer = osmium.SimpleWriter(str(path), header=header)
    ids: dict[Point, int] = {}
    mutable = osmium.osm.mutable
    for node in ground.nodes:
        (location,) = degrees([node.point])
        writer.add_node(mutable.Node(id=node.id, version=1, location=location, tags=node.tags))
    present = [way for way in ground.ways if not way.absent]
    for way in present:
        for point in degrees(way.points):
            if point not in ids:
                ids[point] = 10_001 + len(ids)
                writer.add_node(mutable.Node(id=ids[point], version=1, location=point, tags={}))
    for way in present:
        nodes = [ids[point] for point in degrees(way.points)]
        writer.add_way(mutable.Way(id=way.id, version=1, nodes=nodes, tags=way.tags))
    for relation in ground.relations:
        members = [("w", way.id, "outer") for way in relation.members]
        writer.add_relation(
            mutable.Relation(id=relation.id, version=1, members=members, tags=relation.tags)
        )
    writer.close()


def write_answers(folder: Path, ground: Ground) -> None:
    """Write what an Overpass server would answer to the query of osm/overpass.py, by zone."""
    folder.mkdir(parents=True, exist_ok=True)
    index = []
    for name, (west, south) in ZONES.items():
        bounds = (west, south, west + SIDE, south + SIDE)
        corners = degrees([(bounds[0], bounds[1]), (bounds[2], bounds[3])])
        answer = {
            "version": 0.6,
            "generator": "Overpass API 0.7.62 7c32a7d5",
            "osm3s": {"timestamp_osm_base": STAMP, "timestamp_areas_base": STAMP},
            "elements": elements_of(ground, shapely.box(*bounds)),
        }
        text = json.dumps(answer, ensure_ascii=False, indent=1)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        index.append(
            {
                "name": name,
                "lambert93_bounds": list(bounds),
                "wgs84_bounds_swne": [corners[0][1], corners[0][0], corners[1][1], corners[1][0]],
            }
        )
    (folder / "index.json").write_text(json.dumps(index, indent=1) + "\n")


def elements_of(ground: Ground, box: shapely.Geometry) -> list[dict[str, Any]]:
    """The elements of an answer, in the order of the query's `out` statements."""
    whole, tags_only = [], []
    for relation in ground.relations:
        lines = [shapely.LineString(way.points) for way in relation.members if not way.absent]
        crosses = any(line.intersects(box) for line in lines)
        area = shapely.polygonize(lines)
        inside = any(face.contains(box.centroid) for face in area.geoms)
        entry: dict[str, Any] = {"type": "relation", "id": relation.id}
        level = relation.tags["admin_level"]
        if (crosses and level in ("8", "10")) or (inside and level == "10"):
            entry["members"] = [member(way) for way in relation.members]
            whole.append(entry | {"tags": relation.tags})
        elif crosses or inside:
            tags_only.append(entry | {"tags": relation.tags})
    roads, landscape, buildings = [], [], []
    for way in ground.ways:
        if not way.tags or not shapely.LineString(way.points).intersects(box):
            continue
        entry = {"type": "way", "id": way.id, "tags": way.tags}
        if "building" in way.tags:
            xs, ys = zip(*degrees(way.points), strict=True)
            centre = {"lat": (min(ys) + max(ys)) / 2, "lon": (min(xs) + max(xs)) / 2}
            buildings.append(entry | {"center": {k: round(v, 7) for k, v in centre.items()}})
        else:
            kind = roads if "highway" in way.tags else landscape
            kind.append(entry | {"geometry": geometry(way.points)})
    places = [n for n in ground.nodes if "place" in n.tags and near(n, box)]
    amenities = [n for n in ground.nodes if "amenity" in n.tags and box.contains(point_of(n))]
    return [
        *whole,
        *tags_only,
        *roads,
        *map(node_entry, places),
        *map(node_entry, amenities),
        *landscape,
        *buildings,
    ]


def point_of(node: Node) -> shapely.Geometry:
    """A node as a geometry."""
    return shapely.Point(node.point)


def near(node: Node, box: shapely.Geometry) -> bool:
    """Whether a place is within the 1.7 km around a zone that were asked for."""
    return bool(math.isfinite(box.distance(point_of(node))) and box.distance(point_of(node)) < 1700)


def member(way: Way) -> dict[str, Any]:
    """A member of a relation; one that the server does not have is without geometry."""
    entry = {"type": "way", "ref": way.id, "role": "outer"}
    return entry if way.absent else entry | {"geometry": geometry(way.points)}


def geometry(points: list[Point]) -> list[dict[str, float]]:
    """Points as Overpass gives them."""
    return [{"lat": y, "lon": x} for x, y in degrees(points)]


def node_entry(node: Node) -> dict[str, Any]:
    """A node as Overpass gives it."""
    ((x, y),) = degrees([node.point])
    return {"type": "node", "id": node.id, "lat": y, "lon": x, "tags": node.tags}


if __name__ == "__main__":
    make_flair(HERE / "flair")
    (HERE / "osm").mkdir(exist_ok=True)
    drawn = draw_ground()
    write_extract(HERE / "osm/ground.osm.pbf", drawn)
    write_answers(HERE / "osm/overpass", drawn)
