"""Splits of a dataset, by groups of patches."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely

from aerialdreams.errors import UserError

TOUCHING = 1e-6  # degrees, 0.1 m: the rounding of outlines


def assign_splits(
    rows: list[dict[str, Any]],
    validation_groups: Sequence[str],
    test_groups: Sequence[str],
    drawn: dict[str, Any],
) -> None:
    """Set each row's split by its group, so that no group is in two splits.

    Args:
        rows: rows of the patch index; `group` is read, `split` is set.
        validation_groups: groups of the validation split.
        test_groups: groups of the test split.
        drawn: `seed`, and the shares `validation` and `test` of the other groups, 0 to 1, that are
            drawn for these splits. All others form the train split.

    Raises:
        UserError: the train split has no patch.
    """
    split_of = dict.fromkeys(validation_groups, "validation") | dict.fromkeys(test_groups, "test")
    others = sorted({row["group"] for row in rows} - split_of.keys())
    order = sorted(
        others, key=lambda group: hashlib.sha256(f"{drawn['seed']} {group}".encode()).digest()
    )
    start = 0
    for split in ("validation", "test"):
        count = max(1, round(drawn[split] * len(others))) if drawn[split] else 0
        split_of |= dict.fromkeys(order[start : start + count], split)
        start += count
    for row in rows:
        row["split"] = split_of.get(row["group"], "train")
    if not any(row["split"] == "train" for row in rows):
        groups = sorted({row["group"] for row in rows})
        listed = ", ".join(groups[:20]) + (", ..." if len(groups) > 20 else "")
        raise UserError(
            f"patch_index: no valid patch for the train split; the groups are {listed};"
            " validation_groups, test_groups and drawn assign them"
        )


def neighbours_across_splits(rows: list[dict[str, Any]], patch_size: int) -> list[str]:
    """Patches that touch or overlap a patch of another split, as "a (train) and b (test)"."""
    placed = [row for row in rows if row.get("longitude") is not None]
    if not placed:
        return []
    # Squares around the centres, in degrees; patches of one grid touch at their edges.
    longitude = np.array([row["longitude"] for row in placed])
    latitude = np.array([row["latitude"] for row in placed])
    side = np.array([row["pixel_size"] * patch_size for row in placed])
    height = side / 111_320 / 2 + TOUCHING
    width = height / np.cos(np.radians(latitude))
    boxes = shapely.box(longitude - width, latitude - height, longitude + width, latitude + height)
    pairs = shapely.STRtree(boxes).query(boxes, predicate="intersects").T.tolist()
    touching: dict[int, int] = {}
    for a, b in pairs:
        if placed[a]["split"] != placed[b]["split"]:
            touching.setdefault(a, b)
    return [
        f"{placed[a]['patch_id']} ({placed[a]['split']}) and {placed[b]['patch_id']}"
        f" ({placed[b]['split']})"
        for a, b in sorted(touching.items())
    ]
