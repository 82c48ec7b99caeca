"""Boundary IoU: how well predicted edges of classes fit those of the masks.

Cheng et al. 2021, "Boundary IoU" (arXiv 2103.16562): IoU of the pixels of a class that are near its
edge, in the mask and in the prediction. Large parcels cannot hide ragged edges there.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aerialdreams.data.land_cover import IGNORED, class_positions
from aerialdreams.evaluation.metrics import Values, bootstrap_weights, interval

WIDTH = 0.02  # of the strip along edges, as a share of the image's diagonal, as in the paper

Counts = NDArray[np.int64]  # (3, classes): pixels of strips in both, in the mask, in the prediction


def boundary_counts(
    truth: NDArray[np.uint8], predicted: NDArray[np.uint8], class_ids: list[int]
) -> Counts:
    """Pixels of each class in the strips along its edges.

    The border of the image is no edge, for patches are cut anywhere.

    Args:
        truth: class ids, (height, width); pixels without a class do not count.
        predicted: class ids of the same shape.
        class_ids: of the class table, in its order.
    """
    distance = max(1, round(WIDTH * float(np.hypot(*truth.shape))))
    positions = class_positions(class_ids).astype(np.int64)
    counted = positions[truth] != IGNORED
    strips = [near_edge(mask, distance) & counted for mask in (truth, predicted)]
    both = strips[0] & strips[1] & (truth == predicted)
    counts = [
        np.bincount(positions[mask[strip]], minlength=len(class_ids))
        for mask, strip in ((truth, both), (truth, strips[0]), (predicted, strips[1]))
    ]
    return np.stack(counts)


def near_edge(mask: NDArray[np.uint8], distance: int) -> NDArray[np.bool_]:
    """Which pixels have another class within `distance` pixels, in rows and columns.

    Args:
        mask: class ids, (height, width).
        distance: at least 1.
    """
    ids = torch.from_numpy(mask.astype(np.float32))[None, None]
    side = 2 * distance + 1
    highest, lowest = (
        torch.nn.functional.max_pool2d(sign * ids, side, stride=1, padding=distance)
        for sign in (1, -1)
    )
    return np.asarray((highest != -lowest)[0, 0].numpy())


def boundary_agreement(counts: NDArray[np.int64]) -> dict[str, Any]:
    """Mean boundary IoU over the classes that have edges in the masks, with its interval.

    Args:
        counts: of each image, (images, 3, classes).

    Returns:
        `boundary_miou` and `boundary_miou_95`, or a note where no mask has an edge.
    """
    total = counts.sum(0)
    present = total[1] > 0
    if not present.any():
        return {"boundary_miou": "not computed: the masks have no edges"}
    weights = bootstrap_weights(np.random.default_rng(0), len(counts))
    sums = np.tensordot(weights, counts, 1)
    values: Values = np.nanmean(_iou(sums[..., present]), 1)
    return {
        "boundary_miou": float(np.nanmean(_iou(total[:, present]))),
        "boundary_miou_95": interval(values[np.isfinite(values)]),
    }


def _iou(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """IoU from counts, (..., 3, classes); NaN where a class has no strip in the masks."""
    both, truth, predicted = (counts[..., row, :] for row in range(3))
    with np.errstate(invalid="ignore"):
        return np.where(truth > 0, both / (truth + predicted - both), np.nan)
