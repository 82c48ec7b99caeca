"""Layout of a zone: parcels, roads, buildings, woods and a river, rasterised to a grid.

Positions are in metres, x to the east and y to the south of the zone's north-west corner. Cells of
the grid measure 0.4 m, twice a pixel. All numbers are chosen so that the result resembles FLAIR's
masks.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aerialdreams.data.flair import PATCH_EXTENT
from aerialdreams.sample.canvas import (
    AGRICULTURAL,
    BARE_SOIL,
    BRUSHWOOD,
    BUILDING,
    CLEAR_CUT,
    CONIFEROUS,
    DECIDUOUS,
    GREENHOUSE,
    HERBACEOUS,
    IMPERVIOUS,
    LIGNEOUS,
    MIXED,
    PERVIOUS,
    PLOWED,
    POOL,
    SNOW,
    VINEYARD,
    WATER,
    Canvas,
    Feature,
    pick,
)
from aerialdreams.sample.geometry import (
    Polygon,
    box,
    direction,
    divide,
    inside,
    on_edge,
    rotation,
    shrink,
)

# Classes of parcels and their shares, by kind of block.
PARCEL_CLASSES = {
    "fields": {AGRICULTURAL: 0.45, PLOWED: 0.25, HERBACEOUS: 0.2, VINEYARD: 0.1},
    "orchards": {VINEYARD: 0.45, LIGNEOUS: 0.35, HERBACEOUS: 0.2},
    "wood": {DECIDUOUS: 0.4, CONIFEROUS: 0.25, MIXED: 0.2, CLEAR_CUT: 0.15},
    "heath": {HERBACEOUS: 0.45, BRUSHWOOD: 0.35, BARE_SOIL: 0.2},
    "heights": {BARE_SOIL: 0.3, SNOW: 0.3, CONIFEROUS: 0.2, HERBACEOUS: 0.2},
}
# Kinds of block and their shares, by the letters of a zone's name: urban, agricultural, forest,
# natural, high.
BLOCKS = {
    "U": {"houses": 0.75, "industry": 0.25},
    "A": {"fields": 0.55, "orchards": 0.3, "greenhouses": 0.15},
    "F": {"wood": 1.0},
    "N": {"heath": 0.7, "wood": 0.3},
    "H": {"heights": 0.7, "heath": 0.3},
}
PARCEL_AREA = {"fields": 9000, "orchards": 5000, "wood": 9000, "heath": 7000, "heights": 9000}
PAINT = (232, 232, 224)  # of road markings


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


def draw_land(kinds: str, patches: int, seed: list[int]) -> Land:
    """Lay out one zone.

    Args:
        kinds: the two letters of the zone's name, of U, A, N, F and H.
        patches: number of patches along the zone's side.
        seed: seed of the zone, see numpy.random.default_rng.
    """
    rng = np.random.default_rng(seed)
    canvas = Canvas(patches * PATCH_EXTENT, rng)
    # A rotated square that covers the whole zone is divided into blocks.
    centre, half, angle = canvas.size / 2, canvas.size * 0.8, rng.uniform(-0.5, 0.5)
    square = np.array([[-half, -half], [half, -half], [half, half], [-half, half]])
    blocks, cuts = divide(square @ rotation(angle) + centre, 24000, rng)
    # Alternate between the two letters, so that both occur in the zone.
    by_letter = [(kinds[number % 2], block) for number, block in enumerate(blocks)]
    # First those inside the zone, so that the shares of their kinds hold there.
    for letter, block in sorted(by_letter, key=lambda item: _is_outside(item[1], canvas.size)):
        _fill(canvas, canvas.choose(letter, BLOCKS[letter]), block)
    if set(kinds) & set("FN") and "H" not in kinds:
        _river(canvas)
    _roads(canvas, cuts, paved="U" in kinds)
    return Land(np.array(canvas.image, np.int32), canvas.features, canvas.roads)


def _is_outside(block: Polygon, size: float) -> bool:
    centre = block.mean(0)
    return bool((centre < 0).any() or (centre > size).any())


def _fill(canvas: Canvas, kind: str, block: Polygon) -> None:
    """Draw a block of a kind."""
    if kind == "houses":
        return _houses(canvas, block)
    if kind == "industry":
        return _industry(canvas, block)
    if kind == "greenhouses":
        return _greenhouses(canvas, block)
    for parcel in divide(block, PARCEL_AREA[kind], canvas.rng)[0]:
        class_id = canvas.choose(kind, PARCEL_CLASSES[kind])
        canvas.polygon(parcel, canvas.add(class_id, direction(parcel)))
        if kind == "fields" and canvas.rng.random() < 0.35:
            _hedge(canvas, parcel)
        if kind in ("heath", "heights"):
            for _ in range(4):
                blob_class = pick(canvas.rng, PARCEL_CLASSES[kind])
                centre = inside(parcel, canvas.rng)
                canvas.blob(centre, 12, canvas.add(blob_class), 0.35)
            canvas.tree(inside(parcel, canvas.rng))
    return None


def _houses(canvas: Canvas, block: Polygon) -> None:
    """Lots with a house, trees and a drive to the nearest edge; some have a pool."""
    rng = canvas.rng
    canvas.polygon(block, canvas.add(HERBACEOUS))
    block_centre = block.mean(0)
    for lot in divide(shrink(block, 4), 1000, rng)[0]:
        canvas.polygon(lot, canvas.add(HERBACEOUS))
        centre = lot.mean(0)
        outwards = (centre - block_centre) / (np.linalg.norm(centre - block_centre) + 1e-9)
        drive = canvas.add(PERVIOUS)
        canvas.line(np.stack([centre, centre + outwards * 24]), 4.6, drive)
        angle = direction(lot)
        if rng.random() < 0.3:
            canvas.polygon(box(centre - outwards * 11, 11, 6.4, angle), canvas.add(POOL))
        _house(canvas, centre, rng.uniform(15, 20), rng.uniform(11, 13), angle)
        for _ in range(rng.integers(1, 4)):
            canvas.tree(on_edge(lot, rng))


def _industry(canvas: Canvas, block: Polygon) -> None:
    rng = canvas.rng
    canvas.polygon(block, canvas.add(pick(rng, {HERBACEOUS: 0.5, PERVIOUS: 0.5})))
    canvas.polygon(shrink(block, 9), canvas.add(IMPERVIOUS))
    for lot in divide(shrink(block, 12), 4200, rng)[0]:
        angle = direction(lot)
        if rng.random() < 0.25:
            canvas.polygon(shrink(lot, 5), canvas.add(BARE_SOIL))
        else:
            width = rng.uniform(22, 30)
            _house(canvas, lot.mean(0), rng.uniform(32, 44), width, angle)
            _parking(canvas, lot.mean(0), width / 2 + 5, angle)


def _parking(canvas: Canvas, centre: NDArray[np.float64], distance: float, angle: float) -> None:
    """A row of cars, side by side, along a building."""
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-np.sin(angle), np.cos(angle)])
    for place in np.arange(-14, 14, 3.2):
        if canvas.rng.random() < 0.7:
            canvas.car(centre + distance * across + place * along, angle + np.pi / 2)


def _greenhouses(canvas: Canvas, block: Polygon) -> None:
    canvas.polygon(block, canvas.add(HERBACEOUS))
    for lot in divide(shrink(block, 5), 4200, canvas.rng)[0]:
        angle = direction(lot)
        across = np.array([-np.sin(angle), np.cos(angle)])
        canvas.polygon(shrink(lot, 2), canvas.add(PLOWED, angle))
        for step in (-1, 0, 1):
            greenhouse = canvas.add(GREENHOUSE, angle)
            canvas.polygon(box(lot.mean(0) + step * 15 * across, 44, 11, angle), greenhouse)


def _house(
    canvas: Canvas, centre: NDArray[np.float64], length: float, width: float, angle: float
) -> None:
    """A roof: two slopes, which the sun lights differently, and a bright ridge."""
    across = np.array([-np.sin(angle), np.cos(angle)])
    facing = float(across @ np.array([0.35, 0.94]))  # opposite to photograph.SHADOW
    first = canvas.add(BUILDING, angle, facing)
    roof = canvas.features[first]
    canvas.features.append(Feature(BUILDING, roof.height, angle, roof.tint, -facing))
    canvas.polygon(box(centre, length, width, angle), first + 1)
    canvas.polygon(box(centre + across * width / 4, length, width / 2, angle), first)
    canvas.features.append(Feature(BUILDING, roof.height, angle, roof.tint, 1.6))
    canvas.polygon(box(centre, length, 0.8, angle), first + 2)


def _hedge(canvas: Canvas, parcel: Polygon) -> None:
    start, end = parcel[0], parcel[1]
    for along in np.arange(0, 1, 8 / max(8.0, float(np.linalg.norm(end - start)))):
        if canvas.rng.random() < 0.8:
            canvas.tree(start + along * (end - start))


def _river(canvas: Canvas) -> None:
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


def _roads(canvas: Canvas, cuts: list[NDArray[np.float64]], paved: bool) -> None:
    streets = cuts if paved else cuts[:3]
    tracks = cuts[len(streets) :]
    canvas.roads += [("street", line) for line in streets] + [("track", line) for line in tracks]
    for line in streets:
        canvas.line(line, 14 if paved else 12, canvas.add(PERVIOUS if paved else HERBACEOUS))
    for line in tracks:
        canvas.line(line, 6.0, canvas.add(PERVIOUS))
    for line in streets:
        canvas.line(line, 9.2, canvas.add(IMPERVIOUS))
    for line in streets:
        _markings_and_cars(canvas, line)


def _markings_and_cars(canvas: Canvas, line: NDArray[np.float64]) -> None:
    """Dashes along a street's centre line, and cars beside it."""
    rng, (start, end) = canvas.rng, line
    length = float(np.linalg.norm(end - start))
    along = (end - start) / length
    angle = float(np.arctan2(along[1], along[0]))
    across = np.array([-along[1], along[0]])
    canvas.features.append(Feature(IMPERVIOUS, 0.0, angle, 0.5, colour=PAINT))
    dashes = len(canvas.features) - 1
    for distance in np.arange(3, length, 9):
        # Wider than real ones, so that they show in images of 0.8 m a pixel.
        canvas.polygon(box(start + distance * along, 4.0, 0.8, angle), dashes)
    distance = rng.uniform(5, 40)
    while distance < length:
        canvas.car(start + distance * along + rng.choice([-2.4, 2.4]) * across, angle)
        distance += rng.uniform(12, 60)
