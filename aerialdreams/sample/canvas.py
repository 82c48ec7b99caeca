"""What zones are drawn with: features, and the grid that they are drawn on.

Positions are in metres, x to the east and y to the south of the zone's north-west corner. Cells of
the grid measure 0.4 m, twice a pixel.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from aerialdreams.sample.geometry import Polygon, box

CELL = 0.4  # metres

# FLAIR's class ids.
BUILDING, PERVIOUS, IMPERVIOUS, BARE_SOIL, WATER, CONIFEROUS, DECIDUOUS = range(1, 8)
BRUSHWOOD, VINEYARD, HERBACEOUS, AGRICULTURAL, PLOWED, POOL, SNOW = range(8, 15)
CLEAR_CUT, MIXED, LIGNEOUS, GREENHOUSE = range(15, 19)

Kind = TypeVar("Kind")

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
# Of cars, RGB: white, black, red, blue and grey. They belong to the ground's class, as in FLAIR.
CAR_COLOURS = ((226, 226, 230), (40, 42, 48), (152, 42, 38), (48, 74, 124), (130, 132, 136))


@dataclass(frozen=True)
class Feature:
    """An object on the ground, such as a parcel, tree or half of a roof."""

    class_id: int
    height: float  # metres
    angle: float  # radians, direction of its rows, furrows or ridge
    tint: float  # 0 to 1, selects and shades one of its class's colours
    facing: float = 0.0  # of a roof: -1 faces away from the sun, 1 towards it
    colour: tuple[int, int, int] | None = None  # RGB; None for one of its class's


@dataclass
class Canvas:
    """Draws features onto the grid; later ones cover earlier ones."""

    size: float  # metres
    rng: np.random.Generator
    features: list[Feature] = field(default_factory=list)
    roads: list[tuple[str, NDArray[np.float64]]] = field(default_factory=list)
    chosen: Counter[tuple[str, object]] = field(default_factory=Counter)

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

    def choose(self, kind: str, shares: dict[Kind, float]) -> Kind:
        """A random key that has been chosen for `kind` less often than its share asks for.

        Independent draws would leave rare classes out of small zones.
        """
        total = 1 + sum(self.chosen[kind, key] for key in shares)
        lacking = [
            share * total - self.chosen[kind, key] + self.rng.uniform(0, 0.5)
            for key, share in shares.items()
        ]
        key = list(shares)[int(np.argmax(lacking))]
        self.chosen[kind, key] += 1
        return key

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

    def car(self, centre: NDArray[np.float64], angle: float) -> None:
        colour = CAR_COLOURS[self.rng.integers(len(CAR_COLOURS))]
        self.features.append(Feature(IMPERVIOUS, 1.4, angle, 0.5, colour=colour))
        self.polygon(box(centre, 4.6, 2.2, angle), len(self.features) - 1)


def pick(rng: np.random.Generator, shares: dict[Kind, float]) -> Kind:
    """A random key, with the values as probabilities."""
    return list(shares)[rng.choice(len(shares), p=list(shares.values()))]
