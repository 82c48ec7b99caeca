"""A map of where patches lie: one dot a zone, meridians and parallels, a scale bar. No tiles."""

import math
from dataclasses import dataclass

import pandas as pd

METRES_PER_DEGREE = 111_320  # of latitude
SIZE = 520  # pixels of the map's longer side
MARGIN = 34  # pixels around the zones
STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 45)  # degrees
LINES = 5  # most meridians or parallels


@dataclass(frozen=True)
class Point:
    """A zone on the map, in pixels from the north-west corner."""

    name: str
    kind: str  # its split, or ""
    x: str
    y: str


@dataclass(frozen=True)
class Line:
    """A meridian or parallel, in pixels from the north or west edge."""

    position: str
    label: str


@dataclass(frozen=True)
class Map:
    """All zones in a plate carrée that is true to scale at their mean latitude, north up."""

    width: int
    height: int
    points: list[Point]
    meridians: list[Line]
    parallels: list[Line]
    scale_pixels: str
    scale_label: str


def zone_map(zones: dict[str, pd.DataFrame]) -> Map | None:
    """Draw zones.

    Args:
        zones: rows of the patch index by zone; `longitude`, `latitude` and `split` are read.

    Returns:
        The map, or None if no zone's place is known.
    """
    known = {name: rows for name, rows in zones.items() if rows["longitude"].notna().all()}
    if not known:
        return None
    longitudes = [float(rows["longitude"].mean()) for rows in known.values()]
    latitudes = [float(rows["latitude"].mean()) for rows in known.values()]
    shrink = math.cos(math.radians(sum(latitudes) / len(latitudes)))
    west, east, south, north = (
        min(longitudes),
        max(longitudes),
        min(latitudes),
        max(latitudes),
    )
    span = max((east - west) * shrink, north - south, 0.001)
    scale = (SIZE - 2 * MARGIN) / span  # pixels per degree of latitude
    width = round(max((east - west) * shrink * scale, 120) + 2 * MARGIN)
    height = round(max((north - south) * scale, 60) + 2 * MARGIN)

    def x(longitude: float) -> float:
        return width / 2 + (longitude - (west + east) / 2) * shrink * scale

    def y(latitude: float) -> float:
        return height / 2 - (latitude - (south + north) / 2) * scale

    points = [
        Point(name, _kind(rows), f"{x(longitude):.1f}", f"{y(latitude):.1f}")
        for (name, rows), longitude, latitude in zip(
            known.items(), longitudes, latitudes, strict=True
        )
    ]
    step = next((s for s in STEPS if span / s <= LINES), STEPS[-1])
    half_x, half_y = width / 2 / (shrink * scale), height / 2 / scale
    middle_x, middle_y = (west + east) / 2, (south + north) / 2
    metres, label = _scale_bar(SIZE / 4 / scale * METRES_PER_DEGREE)
    return Map(
        width=width,
        height=height,
        points=points,
        meridians=[
            Line(f"{x(v):.1f}", _degrees(v, "E", "W"))
            for v in _multiples(middle_x - half_x, middle_x + half_x, step)
        ],
        parallels=[
            Line(f"{y(v):.1f}", _degrees(v, "N", "S"))
            for v in _multiples(middle_y - half_y, middle_y + half_y, step)
        ],
        scale_pixels=f"{metres / METRES_PER_DEGREE * scale:.1f}",
        scale_label=label,
    )


def _kind(rows: pd.DataFrame) -> str:
    """The zone's split; "" if its patches are of several."""
    splits = rows["split"].unique() if "split" in rows else []
    return str(splits[0]) if len(splits) == 1 else ""


def _multiples(low: float, high: float, step: float) -> list[float]:
    """Multiples of `step` between two numbers."""
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(n * step, 6) for n in range(first, last + 1)]


def _degrees(value: float, positive: str, negative: str) -> str:
    if value == 0:
        return "0°"
    return f"{abs(value):g}° {positive if value > 0 else negative}"


def _scale_bar(longest: float) -> tuple[float, str]:
    """Largest of 1, 2 or 5 times a power of ten that is at most `longest` metres, and its label."""
    power = 10 ** math.floor(math.log10(longest))
    metres = max(factor * power for factor in (1, 2, 5) if factor * power <= longest)
    return metres, f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"
