"""Composed masks through the pipeline: masks, images, utility."""

from pathlib import Path

import numpy as np
import pytest

from aerialdreams.data.composition import read_composed
from aerialdreams.data.images import mask_path, read_image, read_mask
from aerialdreams.data.index import read_index
from aerialdreams.errors import UserError
from aerialdreams.params import load_params
from aerialdreams.paths import COMPOSED
from aerialdreams.util.files import read_json
from stages import compose_masks

BUILDING = 1


def test_composed_masks_through_the_pipeline(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(whole)
    composed, index = read_composed(), read_index().set_index("patch_id")
    masks = np.stack([read_mask(mask_path(row.patch_id, COMPOSED)) for row in composed])
    assert masks.shape == (4, 512, 512)
    assert (masks == BUILDING).mean() == pytest.approx(0.3, abs=0.03)
    for row in composed:
        assert index["split"][row.started_from] == "train"
        assert "building" in row.caption
        image = read_image(Path(f"data/generated/composed/generated/IMG_{row.patch_id}.png"))
        assert image.shape == (64, 64, 3)
    assert read_image(Path("data/generated/composed.png")).shape == (2 * 64 + 4, 2 * 64 + 4, 3)
    utility, real = read_json(Path("metrics/utility.json")), (index["split"] == "validation").sum()
    counts = {name: utility[name]["n"] for name in ("composed", "both", "real_composed")}
    assert counts == {"composed": 4, "both": 2 * real, "real_composed": real + 4}
    assert "IGN" in (COMPOSED / "README.md").read_text()


def test_a_class_that_the_train_split_lacks(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(whole)
    params = load_params()
    before = sorted(COMPOSED.iterdir())
    stage = params.compose_masks.model_copy(update={"shares": {"other": 1.0}})
    with pytest.raises(UserError, match=r"compose_masks\.shares: 'other' has no parcel"):
        compose_masks.main(params.model_copy(update={"compose_masks": stage}))
    assert sorted(COMPOSED.iterdir()) == before
