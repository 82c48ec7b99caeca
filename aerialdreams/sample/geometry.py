"""Polygons in a plane, in metres: cutting, shrinking, and points in them."""

import numpy as np
from numpy.typing import NDArray

Polygon = NDArray[np.float64]  # (corners, 2)


def divide(
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
        angle = direction(piece) + rng.normal(0, 0.06)
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


def direction(polygon: Polygon) -> float:
    """Angle of a polygon's longest side, radians."""
    sides = np.roll(polygon, -1, 0) - polygon
    x, y = sides[np.argmax(np.linalg.norm(sides, axis=1))]
    return float(np.arctan2(y, x))


def shrink(polygon: Polygon, margin: float) -> Polygon:
    """Move a convex polygon's corners towards its centre, so that its sides move by `margin` m."""
    centre = polygon.mean(0)
    arms = polygon - centre
    lengths = np.linalg.norm(arms, axis=1, keepdims=True)
    return centre + arms * np.maximum(0.1, 1 - margin * 1.4 / np.maximum(lengths, 1e-9))


def box(centre: NDArray[np.float64], length: float, width: float, angle: float) -> Polygon:
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * np.array([length, width]) / 2
    return centre + half @ rotation(angle)


def rotation(angle: float) -> NDArray[np.float64]:
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def inside(polygon: Polygon, rng: np.random.Generator) -> NDArray[np.float64]:
    """A random point inside a convex polygon."""
    return rng.dirichlet(np.ones(len(polygon))) @ polygon


def on_edge(polygon: Polygon, rng: np.random.Generator) -> NDArray[np.float64]:
    """A random point on a polygon's outline."""
    corner, along = rng.integers(len(polygon)), rng.random()
    return polygon[corner - 1] * along + polygon[corner] * (1 - along)
