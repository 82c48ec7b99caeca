"""Layout of a zone: parcels, roads, buildings, woods and a river, rasterised to a grid.

Positions are in metres, x to the east and y to the south of the zone's north-west corner. Cells of
the grid measure 0.4 m, twice a pixel. All numbers are chosen so that the result resembles FLAIR's
masks.
"""

from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from aerialdreams.data.flair import PATCH_EXTENT

CELL = 0.4  # metres

# FLAIR's class ids.
BUILDING, PERVIOUS, IMPERVIOUS, BARE_SOIL, WATER, CONIFEROUS, DECIDUOUS = range(1, 8)
BRUSHWOOD, VINEYARD, HERBACEOUS, AGRICULTURAL, PLOWED, POOL, SNOW = range(8, 15)
CLEAR_CUT, MIXED, LIGNEOUS, GREENHOUSE = range(15, 19)

Kind = TypeVar("Kind")
Polygon = NDArray[np.float64]  # (corners, 2)

# Classes of parcels and their shares, by kind of block.
PARCEL_CLASSES = {
    "fields": {AGRICULTURAL: 0.45, PLOWED: 0.25, HERBACEOUS: 0.2, VINEYARD: 0.1},
    "orchards": {VINEYARD: 0.5, LIGNEOUS: 0.3, HERBACEOUS: 0.2},
    "wood": {DECIDUOUS: 0.5, CONIFEROUS: 0.25, MIXED: 0.15, CLEAR_CUT: 0.1},
    "heath": {HERBACEOUS: 0.45, BRUSHWOOD: 0.35, BARE_SOIL: 0.2},
    "heights": {BARE_SOIL: 0.4, SNOW: 0.2, CONIFEROUS: 0.2, HERBACEOUS: 0.2},
}
# Kinds of block and their shares, by the letters of a zone's name: urban, agricultural, forest,
# natural, high.
BLOCKS = {
    "U": {"houses": 0.75, "industry": 0.25},
    "A": {"fields": 0.6, "orchards": 0.25, "greenhouses": 0.15},
    "F": {"wood": 1.0},
    "N": {"heath": 0.7, "wood": 0.3},
    "H": {"heights": 0.7, "heath": 0.3},
}
PARCEL_AREA = {"fields": 9000, "orchards": 5000, "wood": 16000, "heath": 7000, "heights": 9000}
# Lowest and highest feature of a class, metres above ground.
HEIGHTS = {
    BUILDING: (4, 7),
    CONIFEROUS: (8, 12),
    DECIDUOUS: (6, 9),
    BRUSHWOOD: (1, 2),
    VINEYARD: (1.4, 1.6),
    AGRICULTURAL: (0.3, 0.8),
    CLEAR_CUT: (0.2, 0.5),
    MIXED: (7, 10),
    LIGNEOUS: (2.5, 4),
    GREENHOUSE: (3.5, 4.5),
}


@dataclass(frozen=True)
class Feature:
    """An object on the ground, such as a parcel, tree or half of a roof."""

    class_id: int
    height: float  # metres
    angle: float  # radians, direction of its rows, furrows or ridge
    tint: float  # 0 to 1, selects and shades one of its class's colours
    facing: float = 0.0  # of a roof: -1 faces away from the sun, 1 towards it


@dataclass
class Land:
    """A zone's layout.

    Attributes:
        ids: index of the feature that covers each cell, (cells, cells).
        features: the features.
        roads: kind, "street" or "track", and line, (points, 2), of each road.
    """

    ids: NDArray[np.int32]
    features: list[Feature]
    roads: list[tuple[str, NDArray[np.float64]]]

    @property
    def mask(self) -> NDArray[np.uint8]:
        """Class id of each cell, (cells, cells)."""
        return np.array([feature.class_id for feature in self.features], np.uint8)[self.ids]


@dataclass
class _Canvas:
    """Draws features onto the grid; later ones cover earlier ones."""

    size: float  # metres
    rng: np.random.Generator
    features: list[Feature] = field(default_factory=list)
    roads: list[tuple[str, NDArray[np.float64]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        cells = round(self.size / CELL)
        self.image = Image.new("I", (cells, cells))
        self.draw = ImageDraw.Draw(self.image)

    def add(self, class_id: int, angle: float = 0.0, facing: float = 0.0) -> int:
        """Create a feature of random height and tint; return its index."""
        low, high = HEIGHTS.get(class_id, (0, 0))
        height, tint = self.rng.uniform(low, high), self.rng.random()
        self.features.append(Feature(class_id, height, angle, tint, facing))
        return len(self.features) - 1

    def polygon(self, corners: Polygon, feature: int) -> None:
        self.draw.polygon([(x / CELL, y / CELL) for x, y in corners], fill=feature)

    def line(self, points: NDArray[np.float64], width: float, feature: int) -> None:
        cells = [(x / CELL, y / CELL) for x, y in points]
        self.draw.line(cells, fill=feature, width=round(width / CELL), joint="curve")

    def blob(
        self, centre: NDArray[np.float64], radius: float, feature: int, roughness: float
    ) -> None:
        """Draw an irregular disc: a circle whose radius three sine waves modulate."""
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        phase = self.rng.uniform(0, 2 * np.pi, 3)
        waves = sum(np.sin(k * angles + phase[k - 2]) / k for k in (2, 3, 4))
        radii = radius * (1 + roughness * waves)
        offsets = np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)
        self.polygon(centre + offsets, feature)

    def tree(self, centre: NDArray[np.float64], class_id: int = DECIDUOUS) -> None:
        self.blob(centre, self.rng.uniform(3.0, 5.2), self.add(class_id), 0.12)


def draw_land(kinds: str, patches: int, seed: list[int]) -> Land:
    """Lay out one zone.

    Args:
        kinds: the two letters of the zone's name, of U, A, N, F and H.
        patches: number of patches along the zone's side.
        seed: seed of the zone, see numpy.random.default_rng.
    """
    rng = np.random.default_rng(seed)
    canvas = _Canvas(patches * PATCH_EXTENT, rng)
    # A rotated square that covers the whole zone is divided into blocks.
    centre, half, angle = canvas.size / 2, canvas.size * 0.8, rng.uniform(-0.5, 0.5)
    square = np.array([[-half, -half], [half, -half], [half, half], [-half, half]])
    blocks, cuts = _divide(square @ _rotation(angle) + centre, 24000, rng)
    for number, block in enumerate(blocks):
        # Alternate between the two letters, so that both occur in the zone.
        _fill(canvas, _pick(rng, BLOCKS[kinds[number % 2]]), block)
    if "H" not in kinds and rng.random() < 0.6:
        _river(canvas)
    _roads(canvas, cuts, paved="U" in kinds)
    return Land(np.array(canvas.image, np.int32), canvas.features, canvas.roads)


def _fill(canvas: _Canvas, kind: str, block: Polygon) -> None:
    """Draw a block of a kind."""
    if kind == "houses":
        return _houses(canvas, block)
    if kind == "industry":
        return _industry(canvas, block)
    if kind == "greenhouses":
        return _greenhouses(canvas, block)
    for parcel in _divide(block, PARCEL_AREA[kind], canvas.rng)[0]:
        class_id = _pick(canvas.rng, PARCEL_CLASSES[kind])
        canvas.polygon(parcel, canvas.add(class_id, _direction(parcel)))
        if kind == "fields" and canvas.rng.random() < 0.35:
            _hedge(canvas, parcel)
        if kind in ("heath", "heights"):
            for _ in range(4):
                blob_class = _pick(canvas.rng, PARCEL_CLASSES[kind])
                centre = _inside(parcel, canvas.rng)
                canvas.blob(centre, 12, canvas.add(blob_class), 0.35)
            canvas.tree(_inside(parcel, canvas.rng))
    return None


def _houses(canvas: _Canvas, block: Polygon) -> None:
    """Lots with a house, trees and a drive to the nearest edge; some have a pool."""
    rng = canvas.rng
    canvas.polygon(block, canvas.add(HERBACEOUS))
    block_centre = block.mean(0)
    for lot in _divide(_shrink(block, 4), 1000, rng)[0]:
        canvas.polygon(lot, canvas.add(HERBACEOUS))
        centre = lot.mean(0)
        outwards = (centre - block_centre) / (np.linalg.norm(centre - block_centre) + 1e-9)
        drive = canvas.add(PERVIOUS)
        canvas.line(np.stack([centre, centre + outwards * 24]), 4.6, drive)
        angle = _direction(lot)
        if rng.random() < 0.3:
            canvas.polygon(_box(centre - outwards * 11, 11, 6.4, angle), canvas.add(POOL))
        _house(canvas, centre, rng.uniform(15, 20), rng.uniform(11, 13), angle)
        for _ in range(rng.integers(1, 4)):
            canvas.tree(_on_edge(lot, rng))


def _industry(canvas: _Canvas, block: Polygon) -> None:
    rng = canvas.rng
    canvas.polygon(block, canvas.add(_pick(rng, {HERBACEOUS: 0.5, PERVIOUS: 0.5})))
    canvas.polygon(_shrink(block, 9), canvas.add(IMPERVIOUS))
    for lot in _divide(_shrink(block, 12), 4200, rng)[0]:
        angle = _direction(lot)
        if rng.random() < 0.25:
            canvas.polygon(_shrink(lot, 5), canvas.add(BARE_SOIL))
        else:
            _house(canvas, lot.mean(0), rng.uniform(32, 44), rng.uniform(22, 30), angle)


def _greenhouses(canvas: _Canvas, block: Polygon) -> None:
    canvas.polygon(block, canvas.add(HERBACEOUS))
    for lot in _divide(_shrink(block, 5), 4200, canvas.rng)[0]:
        angle = _direction(lot)
        across = np.array([-np.sin(angle), np.cos(angle)])
        canvas.polygon(_shrink(lot, 2), canvas.add(PLOWED, angle))
        for step in (-1, 0, 1):
            greenhouse = canvas.add(GREENHOUSE, angle)
            canvas.polygon(_box(lot.mean(0) + step * 15 * across, 44, 11, angle), greenhouse)


def _house(
    canvas: _Canvas, centre: NDArray[np.float64], length: float, width: float, angle: float
) -> None:
    """A roof of two slopes, each a feature because the sun lights them differently."""
    across = np.array([-np.sin(angle), np.cos(angle)])
    facing = float(across @ np.array([0.35, 0.94]))  # opposite to photograph.SHADOW
    first = canvas.add(BUILDING, angle, facing)
    roof = canvas.features[first]
    canvas.features.append(Feature(BUILDING, roof.height, angle, roof.tint, -facing))
    canvas.polygon(_box(centre, length, width, angle), first + 1)
    canvas.polygon(_box(centre + across * width / 4, length, width / 2, angle), first)


def _hedge(canvas: _Canvas, parcel: Polygon) -> None:
    start, end = parcel[0], parcel[1]
    for along in np.arange(0, 1, 8 / max(8.0, float(np.linalg.norm(end - start)))):
        if canvas.rng.random() < 0.8:
            canvas.tree(start + along * (end - start))


def _river(canvas: _Canvas) -> None:
    rng = canvas.rng
    along = np.linspace(-0.1, 1.1, 60) * canvas.size
    bends = rng.uniform(12, 35) * np.sin(along / rng.uniform(40, 70) + rng.uniform(0, 6))
    across = canvas.size * rng.uniform(0.25, 0.75) + bends + along * rng.uniform(-0.3, 0.3)
    line = np.stack([along, across] if rng.random() < 0.5 else [across, along], 1)
    width = rng.uniform(14, 26)
    canvas.line(line, width + 14, canvas.add(BRUSHWOOD))
    canvas.line(line, width + 4, canvas.add(HERBACEOUS))
    canvas.line(line, width, canvas.add(WATER))
    for point in line:
        if rng.random() < 0.7:
            canvas.tree(point + rng.choice([-1, 1]) * (width / 2 + 5) + rng.normal(0, 2, 2))


def _roads(canvas: _Canvas, cuts: list[NDArray[np.float64]], paved: bool) -> None:
    for rank, line in enumerate(cuts):
        street = paved or rank < 3
        if street:
            canvas.line(line, 14 if paved else 12, canvas.add(PERVIOUS if paved else HERBACEOUS))
        canvas.roads.append(("street" if street else "track", line))
    for rank, line in enumerate(cuts):
        street = paved or rank < 3
        class_id = IMPERVIOUS if street else PERVIOUS
        canvas.line(line, 9.2 if street else 6.0, canvas.add(class_id))


def _divide(
    polygon: Polygon, area: float, rng: np.random.Generator
) -> tuple[list[Polygon], list[NDArray[np.float64]]]:
    """Cut a convex polygon across its longest side until no piece is larger than about `area` m².

    Returns:
        The pieces, and the lines of the cuts, longest first.
    """
    pieces, cuts, queue = [], [], [polygon]
    while queue:
        piece = queue.pop(0)
        if len(piece) < 3:
            continue
        if _area(piece) < area * rng.uniform(0.9, 1.6):
            pieces.append(piece)
            continue
        angle = _direction(piece) + rng.normal(0, 0.06)
        normal = np.array([np.cos(angle), np.sin(angle)])
        distances = piece @ normal
        level = distances.min() + np.ptp(distances) * rng.uniform(0.4, 0.6)
        low, high, cut = _cut(piece, distances - level)
        queue += [low, high]
        cuts.append(cut)
    return pieces, cuts


def _cut(
    polygon: Polygon, distances: NDArray[np.float64]
) -> tuple[Polygon, Polygon, NDArray[np.float64]]:
    """Cut a convex polygon with a line.

    Args:
        polygon: the polygon.
        distances: signed distance of each corner from the line, (corners,).

    Returns:
        The part with negative distances, the other part, and the cut, (2, 2).
    """
    low: list[NDArray[np.float64]] = []
    high: list[NDArray[np.float64]] = []
    cut: list[NDArray[np.float64]] = []
    for corner, distance, next_corner, next_distance in zip(
        polygon, distances, np.roll(polygon, -1, 0), np.roll(distances, -1), strict=True
    ):
        (low if distance < 0 else high).append(corner)
        if (distance < 0) != (next_distance < 0):
            crossing = corner + (next_corner - corner) * distance / (distance - next_distance)
            low.append(crossing)
            high.append(crossing)
            cut.append(crossing)
    return np.array(low), np.array(high), np.array(cut)


def _area(polygon: Polygon) -> float:
    x, y = polygon.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _direction(polygon: Polygon) -> float:
    """Angle of a polygon's longest side, radians."""
    sides = np.roll(polygon, -1, 0) - polygon
    x, y = sides[np.argmax(np.linalg.norm(sides, axis=1))]
    return float(np.arctan2(y, x))


def _shrink(polygon: Polygon, margin: float) -> Polygon:
    """Move a convex polygon's corners towards its centre, so that its sides move by `margin` m."""
    centre = polygon.mean(0)
    arms = polygon - centre
    lengths = np.linalg.norm(arms, axis=1, keepdims=True)
    return centre + arms * np.maximum(0.1, 1 - margin * 1.4 / np.maximum(lengths, 1e-9))


def _box(centre: NDArray[np.float64], length: float, width: float, angle: float) -> Polygon:
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * np.array([length, width]) / 2
    return centre + half @ _rotation(angle)


def _rotation(angle: float) -> NDArray[np.float64]:
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _inside(polygon: Polygon, rng: np.random.Generator) -> NDArray[np.float64]:
    """A random point inside a convex polygon."""
    return rng.dirichlet(np.ones(len(polygon))) @ polygon


def _on_edge(polygon: Polygon, rng: np.random.Generator) -> NDArray[np.float64]:
    """A random point on a polygon's outline."""
    corner, along = rng.integers(len(polygon)), rng.random()
    return polygon[corner - 1] * along + polygon[corner] * (1 - along)


def _pick(rng: np.random.Generator, shares: dict[Kind, float]) -> Kind:
    """A random key, with the values as probabilities."""
    return list(shares)[rng.choice(len(shares), p=list(shares.values()))]
