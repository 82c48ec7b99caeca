"""adapt-base with more bands than the base model's autoencoder has: refused, or widened."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from aerialdreams.data.dataset import load_split
from aerialdreams.errors import UserError
from aerialdreams.generation.batch import reconstruct
from aerialdreams.models.families import load_base
from aerialdreams.models.latent_diffusion import load_vae
from aerialdreams.params import Params
from aerialdreams.paths import ADAPTED_BASE, BASE, DATASET
from stages import adapt_base
from stages.dataset import FEATURES
from tests.conftest import changed
from tests.tiny import save_base, tiny_sdxl, tiny_stable_diffusion
from tests.training.test_train_controlnet import settle

CAPTIONS = ["Aerial view of 0."]


@pytest.fixture
def place(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images of four bands and a small SDXL, whose autoencoder has three."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    AcceleratorState._reset_state(reset_partial_state=True)
    draw = np.random.default_rng(0)
    write_patches("train", 8, draw)
    write_patches("validation", 2, draw)
    save_base(tiny_sdxl(settle(workdir), CAPTIONS), BASE)
    return workdir


def write_patches(split: str, count: int, draw: np.random.Generator) -> None:
    """A shard of coloured squares of 64 pixels, whose near infrared is the opposite of red."""
    (DATASET / "data").mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[Any]] = {name: [None] * count for name in FEATURES}
    squares = draw.integers(0, 256, (count, 4, 4, 3), np.uint8).repeat(16, 1).repeat(16, 2)
    rows["image"] = [Image.fromarray(image) for image in squares]
    rows["near_infrared"] = [Image.fromarray(255 - image[..., 0]) for image in squares]
    rows["mask"] = [Image.fromarray(np.ones((64, 64), np.uint8))] * count
    rows["captions"] = [CAPTIONS] * count
    rows["caption"] = CAPTIONS * count
    rows["patch_id"] = [f"{number:06d}" for number in range(count)]
    rows["group"] = rows["zone"] = ["one"] * count
    rows["pixel_size"] = [0.2] * count
    features = Features(FEATURES | {"near_infrared": ImageFeature()})
    path = DATASET / f"data/{split}-00000-of-00001.parquet"
    Dataset.from_dict(rows, features=features).to_parquet(path)


def settled(place: Path, **changes: Any) -> Params:
    """Params for the four bands, with these of adapt_base."""
    params = settle(place, adapt_base={"batch_size": 2, "warmup_steps": 2, **changes})
    return changed(params, bands=["red", "green", "blue", "near_infrared"])


def learning(steps: int) -> dict[str, Any]:
    """Params of the autoencoder's training."""
    return {"steps": steps, "batch_size": 4, "learning_rate": 0.01, "noise": 0}


@pytest.mark.parametrize("steps", [0, 2])
def test_without_training_the_bands_are_refused(place: Path, steps: int) -> None:
    with pytest.raises(UserError, match=r"^adapt_base\.autoencoder\.steps: is 0, but .* set it to"):
        adapt_base.main(settled(place, steps=steps))
    assert not ADAPTED_BASE.exists()


def test_an_autoencoder_with_other_bands_is_refused(place: Path, params: Params) -> None:
    shutil.rmtree(BASE)
    save_base(tiny_stable_diffusion(params, CAPTIONS, 32), BASE)  # a linear one
    with pytest.raises(UserError, match=r"models/base: its autoencoder is for images of 3 bands"):
        adapt_base.main(settled(place, autoencoder=learning(2)))


def test_the_autoencoder_is_widened_and_learns(place: Path) -> None:
    said = adapt_base.main(settled(place, steps=2, autoencoder=learning(100)))
    assert said.startswith("autoencoder's first layer and decoder of ") and "; UNet of " in said
    vae = load_vae()
    assert vae.config["in_channels"] == vae.config["out_channels"] == 4
    images = load_split("train", 32).images
    assert images.shape == (8, 32, 32, 4)
    error = np.abs(reconstruct(vae, images).astype(float) - images)[..., 3].mean()
    spread = np.abs(images[..., 3] - images[..., 3].mean()).mean()
    assert (
        error < 0.9 * spread
    )  # of a guess of the mean; tests/models/test_widening.py trains longer
    # All but the first layer of the encoder is the base model's.
    before, after = load_base(BASE).vae.state_dict(), load_base().vae.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    first = {"encoder.conv_in.weight", "encoder.conv_in.bias"}
    assert {name for name in changed if name.startswith(("encoder", "quant"))} == first
    origin = json.loads((ADAPTED_BASE / "source.json").read_text())
    assert origin["adaptation"]["bands"][3] == "near_infrared"
    card = (ADAPTED_BASE / "README.md").read_text()
    assert "Its VAE has learnt to encode and decode images of red, green, blue, near_" in card
    assert "the decoder's and the encoder's first layer" in card
