"""Large images as overlapping tiles, blended without seams."""

from collections.abc import Callable

import torch
from torch import Tensor

from aerialdreams.util.batched import batched

Corner = tuple[int, int]  # row and column of a tile's upper left latent pixel
MIN_WEIGHT = 1e-3  # of a tile at its edge, so that no weight is zero at the image's edge


def tile_corners(height: int, width: int, size: int) -> list[Corner]:
    """The tiles that cover latents, row by row; neighbours overlap by half or more.

    Args:
        height: of the latents, at least `size`.
        width: of the latents, at least `size`.
        size: height and width of a tile, latent pixels.
    """
    rows, columns = (
        [*range(0, length - size, size // 2), length - size] for length in (height, width)
    )
    return [(y, x) for y in rows for x in columns]


def blend_tiles(
    compute: Callable[[list[Corner]], Tensor],
    shape: tuple[int, ...],
    tile_size: int,
    batch_size: int,
    device: torch.device,
    scale: int = 1,
) -> Tensor:
    """Compute all tiles and average them where they overlap.

    Their weights fall off towards their edges. Tiles are added one by one in their order, so that
    the batch size changes nothing.

    Args:
        compute: gives tensors (tiles, channels, size * scale, size * scale) for some tiles.
        shape: of the latents, (channels, height, width).
        tile_size: height and width of a tile, latent pixels.
        batch_size: tiles that are computed at once.
        device: where they are added up.
        scale: pixels of the result per latent pixel.

    Returns:
        (channels, height * scale, width * scale).
    """
    size = tile_size * scale
    ramp = (torch.arange(size) + 0.5) / size
    falloff = torch.sin(torch.pi * ramp) ** 2 + MIN_WEIGHT
    weight = (falloff[:, None] * falloff[None]).to(device)
    total: Tensor | None = None
    weights = torch.zeros(shape[1] * scale, shape[2] * scale, device=device)
    for tiles in batched(tile_corners(shape[1], shape[2], tile_size), batch_size):
        for (y, x), tile in zip(tiles, compute(tiles), strict=True):
            if total is None:
                total = torch.zeros(len(tile), *weights.shape, device=device)
            area = (slice(y * scale, y * scale + size), slice(x * scale, x * scale + size))
            total[:, *area] += tile * weight
            weights[area] += weight
    assert total is not None
    return total / weights
