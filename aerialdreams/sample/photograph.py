"""Renders a zone's layout: colours, textures, light and shadow, near infrared and heights.

All numbers are chosen so that the result resembles FLAIR's images.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from aerialdreams.data.flair import PIXEL_SIZE
from aerialdreams.sample import canvas
from aerialdreams.sample.canvas import CELL, Feature
from aerialdreams.sample.land import Land

Plane = NDArray[np.float32]  # (height, width)

TILE = 1024  # pixels after which textures repeat
SHADOW = np.array([-0.35, -0.94])  # direction in which shadows fall: the sun is in the SSE


class Appearance:
    """The appearance of a class.

    Args:
        colours: RGB, 0 to 255; a feature's tint selects one of them.
        infrared: mean of the near-infrared band, 0 to 255.
        grain: relative strength of fine, medium and coarse noise.
        rows: distance between rows in metres, and their relative strength.
        crowns: width of tree crowns or tufts in metres, and their relative strength.
    """

    def __init__(
        self,
        *colours: tuple[int, int, int],
        infrared: int,
        grain: tuple[float, float, float] = (0.03, 0.03, 0.03),
        rows: tuple[float, float] = (1.0, 0.0),
        crowns: tuple[float, float] = (2.0, 0.0),
    ) -> None:
        self.colours = colours
        self.infrared = infrared
        self.grain = grain
        self.rows = rows
        self.crowns = crowns


APPEARANCES = {
    canvas.BUILDING: Appearance((186, 104, 78), (170, 92, 70), (118, 118, 128), infrared=110),
    canvas.PERVIOUS: Appearance((196, 184, 162), infrared=125, grain=(0.06, 0.03, 0.02)),
    canvas.IMPERVIOUS: Appearance((134, 134, 138), infrared=90, grain=(0.03, 0.01, 0.02)),
    canvas.BARE_SOIL: Appearance((203, 158, 108), infrared=130, grain=(0.06, 0.06, 0.06)),
    canvas.WATER: Appearance((42, 74, 92), infrared=20, grain=(0.02, 0.03, 0.06)),
    canvas.CONIFEROUS: Appearance((42, 66, 52), infrared=150, crowns=(5.6, 0.75)),
    canvas.DECIDUOUS: Appearance((78, 112, 54), (88, 118, 56), infrared=205, crowns=(9.0, 0.6)),
    canvas.BRUSHWOOD: Appearance(
        (122, 124, 70), infrared=165, grain=(0.08, 0.08, 0.05), crowns=(3.6, 0.4)
    ),
    canvas.VINEYARD: Appearance((128, 116, 82), infrared=150, rows=(4.4, 0.42)),
    canvas.HERBACEOUS: Appearance(
        (122, 156, 78), (136, 162, 84), infrared=185, grain=(0.03, 0.05, 0.06)
    ),
    canvas.AGRICULTURAL: Appearance(
        (208, 192, 112), (190, 184, 98), infrared=170, grain=(0.02, 0.02, 0.05), rows=(8.0, 0.11)
    ),
    canvas.PLOWED: Appearance(
        (134, 100, 74), (146, 112, 84), infrared=95, grain=(0.05, 0.03, 0.06), rows=(5.6, 0.2)
    ),
    canvas.POOL: Appearance((76, 190, 208), infrared=40, grain=(0.02, 0.02, 0.0)),
    canvas.SNOW: Appearance((240, 243, 248), infrared=210, grain=(0.01, 0.02, 0.02)),
    canvas.CLEAR_CUT: Appearance((150, 128, 110), infrared=120, grain=(0.16, 0.1, 0.06)),
    canvas.MIXED: Appearance((60, 90, 54), (66, 94, 62), infrared=180, crowns=(7.2, 0.95)),
    canvas.LIGNEOUS: Appearance((150, 160, 96), infrared=170, rows=(7.6, 0.45), crowns=(5.2, 0.35)),
    canvas.GREENHOUSE: Appearance((214, 222, 230), infrared=140, rows=(4.4, 0.18)),
}


def photograph(layout: Land, seed: list[int]) -> NDArray[np.uint8]:
    """Render a zone.

    Args:
        layout: the zone's layout, (cells, cells).
        seed: seed for the offsets of textures, see numpy.random.default_rng.

    Returns:
        FLAIR's five bands, (5, 2 * cells, 2 * cells): red, green, blue, near infrared, and height
        above ground in fifths of a metre.
    """
    rng = np.random.default_rng(seed)
    features = layout.features
    ids = np.repeat(np.repeat(layout.ids, 2, 0), 2, 1)
    looks = [APPEARANCES[feature.class_id] for feature in features]

    def by_feature(values: list) -> Plane:
        return np.array(values, np.float32)[ids]

    light = np.ones(ids.shape, np.float32)
    for level, sigma in enumerate((1.0, 4.0, 30.0)):
        noise = _cover(_noise(sigma, level), ids.shape, rng)
        light += by_feature([look.grain[level] for look in looks]) * noise
    light += _rows(by_feature, features, looks, ids.shape)
    domes = np.zeros(ids.shape, np.float32)
    for width in sorted({look.crowns[0] for look in looks if look.crowns[1]}):
        strength = by_feature([look.crowns[1] * (look.crowns[0] == width) for look in looks])
        domes += strength * _cover(_crowns(width), ids.shape, rng)
    light *= 1 + domes
    light *= by_feature([1 + 0.22 * feature.facing for feature in features])

    heights = np.array([feature.height for feature in features], np.float32)[layout.ids]
    shade = np.repeat(np.repeat(_shadow(heights), 2, 0), 2, 1)
    bands = []
    for band in range(3):
        base = by_feature(
            [_colour(feature, look)[band] for feature, look in zip(features, looks, strict=True)]
        )
        # Only the sky, which is blue, lights the shadows.
        bands.append(base * light * (1 - shade * (0.55, 0.5, 0.42)[band]))
    infrared = by_feature([look.infrared for look in looks]) * light * (1 - 0.5 * shade)
    colour = _blur(np.stack(bands, 2))
    height_band = np.repeat(np.repeat(heights, 2, 0), 2, 1) * np.clip(1 + 0.5 * domes, 0, 1.5) * 5
    return np.concatenate(
        [colour.transpose(2, 0, 1), np.clip([infrared, height_band], 0, 255).astype(np.uint8)]
    )


def _colour(feature: Feature, look: Appearance) -> NDArray[np.float64]:
    """A feature's own colour, or one of its class's, lighter or darker and warmer or colder."""
    if feature.colour:
        return np.array(feature.colour, np.float64)
    position = feature.tint * len(look.colours)
    shift = position % 1 - 0.5
    colour = np.array(look.colours[int(position)], np.float64)
    return colour * (1 + 0.12 * shift) * (1 + shift * np.array([0.05, 0.0, -0.05]))


def _rows(by_feature, features, looks, shape: tuple[int, ...]) -> Plane:  # type: ignore[no-untyped-def]
    """Furrows, vines and orchards: sine waves across each feature's direction."""
    y, x = (axis.astype(np.float32) * PIXEL_SIZE for axis in np.ogrid[: shape[0], : shape[1]])
    frequency = [2 * np.pi / look.rows[0] for look in looks]
    across_x = [-np.sin(f.angle) * s for f, s in zip(features, frequency, strict=True)]
    across_y = [np.cos(f.angle) * s for f, s in zip(features, frequency, strict=True)]
    wave = np.sin(by_feature(across_x) * x + by_feature(across_y) * y)
    return by_feature([look.rows[1] for look in looks]) * wave


def _shadow(heights: Plane) -> Plane:
    """Shadow on each cell, 0 (none) to 1, cast by higher cells towards the sun.

    The sun's elevation is 45 degrees, so a shadow is as long as the height of its object.
    """
    shade = np.zeros_like(heights)
    longest = 14.0
    margin = round(longest / CELL)
    padded = np.pad(heights, margin, mode="edge")
    rows, columns = heights.shape
    for distance in np.arange(0.8, longest, 0.8):
        left, up = (margin - round(component * distance / CELL) for component in SHADOW)
        caster = padded[up : up + rows, left : left + columns]
        shade = np.maximum(shade, np.clip(caster - heights - distance, 0, 1))
    return shade


def _blur(colour: Plane) -> NDArray[np.uint8]:
    """Convert to uint8 and soften edges, as a lens does."""
    image = Image.fromarray(np.clip(colour, 0, 255).astype(np.uint8))
    return np.array(image.filter(ImageFilter.GaussianBlur(0.9)))


def _cover(tile: Plane, shape: tuple[int, ...], rng: np.random.Generator) -> Plane:
    """Repeat a texture over a plane of `shape`, with a random offset."""
    shifted = np.roll(tile, rng.integers(TILE, size=2), (0, 1))
    repeats = [-(-side // TILE) for side in shape]
    return np.tile(shifted, repeats)[: shape[0], : shape[1]]


@cache
def _noise(sigma: float, seed: int) -> Plane:
    """Periodic noise of mean 0 and standard deviation 1, blurred with a sigma in pixels."""
    white = np.random.default_rng([seed, 1]).standard_normal((TILE, TILE))
    frequency = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE))
    smooth = np.fft.irfft2(np.fft.rfft2(white) * np.exp(-2 * (np.pi * sigma * frequency) ** 2))
    return (smooth / smooth.std()).astype(np.float32)


@cache
def _crowns(width: float) -> Plane:
    """Periodic texture of tree crowns about `width` metres wide, lit by the sun.

    Returns:
        Relative brightness, -1 to 0.6, (TILE, TILE).
    """
    rng = np.random.default_rng([round(width * 10), 2])
    cell = round(width / PIXEL_SIZE)
    count = TILE // cell
    step = TILE / count
    corner = np.stack(np.meshgrid(np.arange(count), np.arange(count), indexing="ij"), 2)
    centres = (corner + rng.uniform(0.15, 0.85, corner.shape)) * step
    brightness = rng.uniform(-0.25, 0.25, (count, count))
    y, x = np.mgrid[:TILE, :TILE].astype(np.float32)
    row, column = (y // step).astype(int), (x // step).astype(int)
    nearest = np.full((TILE, TILE), np.inf, np.float32)
    light = np.zeros((TILE, TILE), np.float32)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            i, j = row + down, column + right
            dy = y - centres[i % count, j % count, 0] - (i - i % count) * step
            dx = x - centres[i % count, j % count, 1] - (j - j % count) * step
            distance = np.hypot(dy, dx)
            closer = distance < nearest
            nearest = np.where(closer, distance, nearest)
            # A dome is bright on the side of the sun, dark on the other side and at the rim.
            slope = -(dx * SHADOW[0] + dy * SHADOW[1]) / step
            value = 0.9 * slope + brightness[i % count, j % count] - 1.2 * (distance / step) ** 2
            light = np.where(closer, value, light)
    return np.clip(light + 0.2, -1, 0.6).astype(np.float32)
