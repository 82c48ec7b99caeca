"""Change part of a photograph: repaint where its mask changes, and leave all else as it is."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from aerialdreams.generation.painter import Kept, OnStep, Painter

Window = tuple[slice, slice]  # rows and columns


def repaint_weights(changed: NDArray[np.bool_], margin: float) -> NDArray[np.float32]:
    """How much of each pixel is repainted: 1 where the mask changes, 0 beyond the margin.

    Args:
        changed: bool, (height, width).
        margin: distance, in pixels, over which the repainted area blends into the photograph.

    Returns:
        0 to 1, (height, width); it falls off smoothly (3x² - 2x³) within the margin.
    """
    if not changed.any():
        return np.zeros(changed.shape, np.float32)
    distance = ndimage.distance_transform_edt(~changed)
    linear = np.where(distance <= margin, 1 - distance / (margin + 1), 0)
    return (linear**2 * (3 - 2 * linear)).astype(np.float32)


def edit(
    painter: Painter,
    photograph: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    changed: NDArray[np.bool_],
    prompt: str,
    seed: int = 0,
    margin: float = 8,
    on_step: OnStep | None = None,
    **settings: Any,
) -> NDArray[np.uint8]:
    """Repaint part of a photograph after a mask.

    Separate areas are repainted one after the other, each with its surroundings, so that memory
    grows with the largest of them and not with the photograph.

    Args:
        painter: the model.
        photograph: RGB and the model's further bands, 0 to 255, (height, width, bands), of the
            model's pixel size.
        mask: class ids after the change, (height, width).
        changed: bool, (height, width); where to repaint. Usually where two masks differ.
        prompt: what the image shows, in the form of the training captions.
        seed: of the initial noise.
        margin: pixels around `changed` in which old and new image are blended.
        on_step: called after each step with the steps done and their number, over all areas; what
            it raises ends the work.
        settings: further arguments of `Painter.paint`: negative_prompt, sampler, steps, guidance,
            conditioning_scale.

    Returns:
        (height, width, bands); identical to `photograph` where a pixel is further than `margin`
        from all changed ones.

    Raises:
        UserError: the mask has ids outside the class table.
        ValueError: photograph, mask and changed differ in size, the photograph has other bands than
            the model, or a setting is out of range.
    """
    bands = 3 + len(painter.info.further.names)
    if photograph.shape[2:] != (bands,):
        raise ValueError(f"photograph has shape {photograph.shape}; the model makes {bands} bands")
    if not photograph.shape[:2] == mask.shape == changed.shape:
        raise ValueError(
            f"photograph, mask and changed have shapes {photograph.shape}, {mask.shape} and"
            f" {changed.shape}; they must cover the same pixels"
        )
    weights, result = repaint_weights(changed, margin), photograph.copy()
    windows = list(_windows(weights > 0, painter.info.image_size, painter.base.vae_scale_factor))
    for number, (window, area) in enumerate(windows):
        # Another area may reach into this window: only this one's pixels are repainted.
        own = np.where(area, weights[window], 0)
        painted = painter.paint(
            mask[window],
            prompt,
            seed=seed,
            kept=Kept(result[window], own > 0),
            on_step=_counted(on_step, number, len(windows)) if on_step else None,
            **settings,
        )
        blended = result[window] + own[..., None] * (painted.astype(np.float32) - result[window])
        result[window] = np.where(own[..., None] > 0, np.rint(blended), result[window])
    return result


def _windows(
    repainted: NDArray[np.bool_], tile: int, factor: int
) -> Iterator[tuple[Window, NDArray[np.bool_]]]:
    """Each connected area with half a tile around it: a window of whole tiles, and the area."""
    labels, _ = ndimage.label(repainted, structure=np.ones((3, 3)))
    for number, bounds in enumerate(ndimage.find_objects(labels), start=1):
        rows, columns = (
            _with_context(side, length, tile, factor)
            for side, length in zip(bounds, repainted.shape, strict=True)
        )
        yield (rows, columns), labels[rows, columns] == number


def _with_context(side: slice, length: int, tile: int, factor: int) -> slice:
    """A range of pixels with half a tile before and after it, as far as there is ground."""
    stop = min(length, max(side.stop + tile // 2, tile))
    start = max(0, min(side.start - tile // 2, stop - tile)) // factor * factor
    return slice(start, stop)


def _counted(on_step: OnStep, area: int, areas: int) -> Callable[[int, int], None]:
    """`on_step`, counting the steps of all areas."""
    return lambda done, steps: on_step(area * steps + done, areas * steps)
