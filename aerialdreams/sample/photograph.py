"""How a zone looks from above: colours, textures, light and shadow, near infrared, heights."""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from aerialdreams.sample import land
from aerialdreams.sample.land import CELL, Land

Plane = NDArray[np.float32]

TILE = 1024  # pixels of 0.2 m; textures repeat at this distance
PIXEL = CELL / 2
SHADOW = np.array([-0.35, -0.94])  # the sun stands in the south-south-east


class Look:
    """How a class looks.

    Attributes:
        colours: RGB of its looks; a feature's tint picks one and shades it.
        infrared: mean of the NIR band.
        grain: relative strength of fine, middle and coarse noise.
        rows: distance of rows in metres and their relative strength.
        crowns: width of crowns or tufts in metres and their relative strength.
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


LOOKS = {
    land.BUILDING: Look((186, 104, 78), (170, 92, 70), (118, 118, 128), infrared=110),
    land.PERVIOUS: Look((196, 184, 162), infrared=125, grain=(0.06, 0.03, 0.02)),
    land.IMPERVIOUS: Look((134, 134, 138), infrared=90, grain=(0.03, 0.01, 0.02)),
    land.BARE_SOIL: Look((203, 158, 108), infrared=130, grain=(0.06, 0.06, 0.06)),
    land.WATER: Look((42, 74, 92), infrared=20, grain=(0.02, 0.03, 0.06)),
    land.CONIFEROUS: Look((42, 66, 52), infrared=150, crowns=(5.6, 0.75)),
    land.DECIDUOUS: Look((78, 112, 54), (88, 118, 56), infrared=205, crowns=(9.0, 0.6)),
    land.BRUSHWOOD: Look((122, 124, 70), infrared=165, grain=(0.08, 0.08, 0.05), crowns=(3.6, 0.4)),
    land.VINEYARD: Look((128, 116, 82), infrared=150, rows=(4.4, 0.38)),
    land.HERBACEOUS: Look((122, 156, 78), (136, 162, 84), infrared=185, grain=(0.03, 0.05, 0.06)),
    land.AGRICULTURAL: Look(
        (208, 192, 112), (190, 184, 98), infrared=170, grain=(0.02, 0.02, 0.05), rows=(8.0, 0.06)
    ),
    land.PLOWED: Look(
        (134, 100, 74), (146, 112, 84), infrared=95, grain=(0.05, 0.03, 0.06), rows=(5.0, 0.14)
    ),
    land.POOL: Look((76, 190, 208), infrared=40, grain=(0.02, 0.02, 0.0)),
    land.SNOW: Look((240, 243, 248), infrared=210, grain=(0.01, 0.02, 0.02)),
    land.CLEAR_CUT: Look((150, 128, 110), infrared=120, grain=(0.16, 0.1, 0.06)),
    land.MIXED: Look((60, 90, 54), (66, 94, 62), infrared=180, crowns=(7.2, 0.95)),
    land.LIGNEOUS: Look((150, 160, 96), infrared=170, rows=(7.6, 0.45), crowns=(5.2, 0.35)),
    land.GREENHOUSE: Look((214, 222, 230), infrared=140, rows=(4.4, 0.1)),
}


def photograph(ground: Land, seed: list[int]) -> NDArray[np.uint8]:
    """Take the picture of a zone.

    Args:
        ground: the zone, with (cells, cells) of 0.4 m.
        seed: of the textures' places.

    Returns:
        R, G, B, near infrared, and height above ground in fifths of a metre, as FLAIR has them:
        shape (5, 2 * cells, 2 * cells), pixels of 0.2 m.
    """
    rng = np.random.default_rng(seed)
    features = ground.features
    ids = np.repeat(np.repeat(ground.ids, 2, 0), 2, 1)
    looks = [LOOKS[feature.class_id] for feature in features]

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

    heights = np.array([feature.height for feature in features], np.float32)[ground.ids]
    shade = np.repeat(np.repeat(_shadow(heights), 2, 0), 2, 1)
    bands = []
    for band in range(3):
        base = by_feature(
            [
                _colour(feature.tint, look)[band]
                for feature, look in zip(features, looks, strict=True)
            ]
        )
        # What lies in shadow is lit by the sky alone, which is blue.
        bands.append(base * light * (1 - shade * (0.55, 0.5, 0.42)[band]))
    infrared = by_feature([look.infrared for look in looks]) * light * (1 - 0.5 * shade)
    colour = _blurred(np.stack(bands, 2))
    tall = np.repeat(np.repeat(heights, 2, 0), 2, 1) * np.clip(1 + 0.5 * domes, 0, 1.5) * 5
    return np.concatenate(
        [colour.transpose(2, 0, 1), np.clip([infrared, tall], 0, 255).astype(np.uint8)]
    )


def _colour(tint: float, look: Look) -> NDArray[np.float64]:
    """One of the looks, a little lighter or darker, a little warmer or colder."""
    place = tint * len(look.colours)
    shift = place % 1 - 0.5
    colour = np.array(look.colours[int(place)], np.float64)
    return colour * (1 + 0.12 * shift) * (1 + shift * np.array([0.05, 0.0, -0.05]))


def _rows(by_feature, features, looks, shape: tuple[int, ...]) -> Plane:  # type: ignore[no-untyped-def]
    """Furrows, vines and orchards: waves across each feature's direction."""
    y, x = (axis.astype(np.float32) * PIXEL for axis in np.ogrid[: shape[0], : shape[1]])
    step = [2 * np.pi / look.rows[0] for look in looks]
    across_x = [-np.sin(f.angle) * s for f, s in zip(features, step, strict=True)]
    across_y = [np.cos(f.angle) * s for f, s in zip(features, step, strict=True)]
    wave = np.sin(by_feature(across_x) * x + by_feature(across_y) * y)
    return by_feature([look.rows[1] for look in looks]) * wave


def _shadow(heights: Plane) -> Plane:
    """Share of shadow, 0 to 1, of each cell: is there something higher towards the sun?

    The sun stands 45 degrees high: the shadow of a thing is as long as the thing is high.
    """
    shade = np.zeros_like(heights)
    longest = 14.0
    margin = round(longest / CELL)
    wide = np.pad(heights, margin, mode="edge")
    rows, columns = heights.shape
    for reach in np.arange(0.8, longest, 0.8):
        left, up = (margin - round(part * reach / CELL) for part in SHADOW)
        caster = wide[up : up + rows, left : left + columns]
        shade = np.maximum(shade, np.clip(caster - heights - reach, 0, 1))
    return shade


def _blurred(colour: Plane) -> NDArray[np.uint8]:
    """A lens is never as sharp as a label's edge."""
    image = Image.fromarray(np.clip(colour, 0, 255).astype(np.uint8))
    return np.array(image.filter(ImageFilter.GaussianBlur(0.9)))


def _cover(tile: Plane, shape: tuple[int, ...], rng: np.random.Generator) -> Plane:
    """A texture over the whole zone, shifted to a place of its own."""
    rolled = np.roll(tile, rng.integers(TILE, size=2), (0, 1))
    times = [-(-side // TILE) for side in shape]
    return np.tile(rolled, times)[: shape[0], : shape[1]]


@cache
def _noise(sigma: float, seed: int) -> Plane:
    """Repeating noise of mean 0 and deviation 1, smooth over about `sigma` pixels."""
    white = np.random.default_rng([seed, 1]).standard_normal((TILE, TILE))
    frequency = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE))
    smooth = np.fft.irfft2(np.fft.rfft2(white) * np.exp(-2 * (np.pi * sigma * frequency) ** 2))
    return (smooth / smooth.std()).astype(np.float32)


@cache
def _crowns(width: float) -> Plane:
    """Repeating crowns, about `width` metres wide: lit from the sun's side, dark between.

    Values are relative light, from about -1 to 0.6.
    """
    rng = np.random.default_rng([round(width * 10), 2])
    cell = round(width / PIXEL)
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
            # A dome: towards the sun is light, the far side and the rim are dark.
            sunny = -(dx * SHADOW[0] + dy * SHADOW[1]) / step
            value = 0.9 * sunny + brightness[i % count, j % count] - 1.2 * (distance / step) ** 2
            light = np.where(closer, value, light)
    return np.clip(light + 0.2, -1, 0.6).astype(np.float32)
