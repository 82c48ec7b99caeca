"""adapt-base, its autoencoder: what is learnt, killed in each training, what the result says."""

import json
import signal
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from aerialdreams.data.dataset import load_split
from aerialdreams.errors import UserError
from aerialdreams.generation.batch import reconstruct
from aerialdreams.models.latent_diffusion import load_vae
from aerialdreams.paths import ADAPTATION_LOSSES, ADAPTED_BASE, AUTOENCODER_LOSSES, BASE
from aerialdreams.pipeline.adapted_base_card import base_in_words
from stages import adapt_base
from tests.training.test_adapt_base import UNET, adapt, adaptable, hashes
from tests.training.test_train_controlnet import curve, finish, kill, prepare, settle

VAE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of noise and a base that was fitted to other noise; see `prepare`."""
    return prepare(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def place(prepared: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to adapt the base in."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return adaptable(prepared, workdir)


def learning(steps: int, **changes: Any) -> dict[str, Any]:
    """Params of the autoencoder's training."""
    return {"steps": steps, "batch_size": 4, "learning_rate": 0.003} | changes


def vae_weights(folder: Path) -> dict[str, Tensor]:
    """The autoencoder's weights."""
    return load_file(folder / VAE)


def error_of(folder: Path) -> float:
    """Mean absolute error of validation images after encoding and decoding, grey levels."""
    images = load_split("validation", 32).images
    difference = reconstruct(load_vae(folder), images).astype(float) - images
    return float(np.abs(difference).mean())


def test_the_decoder_learns_and_nothing_else_changes(place: Path) -> None:
    before = hashes(BASE)
    said = adapt(place, autoencoder=learning(60, noise=0))
    assert said.startswith("autoencoder's decoder of ") and "; " not in said
    assert "M weights trained for 60 steps of 4 on 12 patches, loss 0." in said
    assert hashes(BASE) == before
    after = hashes(ADAPTED_BASE)
    own = {VAE, "vae/config.json", "README.md", "source.json"}
    assert {name for name in before | after if before.get(name) != after.get(name)} <= own
    base, adapted = vae_weights(BASE), vae_weights(ADAPTED_BASE)
    assert base.keys() == adapted.keys()
    changed = {name for name in base if not torch.equal(base[name], adapted[name])}
    assert {"decoder.weight", "decoder.bias", "refinement.last.weight"} <= changed
    assert not {name for name in changed if name.startswith("encoder")}
    assert error_of(ADAPTED_BASE) < 0.98 * error_of(BASE)
    rows = AUTOENCODER_LOSSES.read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "50", "60"]
    assert ADAPTATION_LOSSES.read_text() == "step,loss\n"


def test_the_unet_learns_the_same_with_another_decoder(place: Path) -> None:
    """Its latents are the encoder's."""
    adapt(place, steps=4)
    alone = hashes(ADAPTED_BASE)
    said = adapt(place, steps=4, autoencoder=learning(4))
    both = hashes(ADAPTED_BASE)
    assert "autoencoder's decoder of " in said and "; UNet of " in said
    assert both[UNET] == alone[UNET] and both[VAE] != alone[VAE]


def test_averaged_weights_are_what_is_saved(place: Path) -> None:
    adapt(place, autoencoder=learning(8))
    last = vae_weights(ADAPTED_BASE)
    adapt(place, autoencoder=learning(8), ema_decay=0.999)
    averaged, base = vae_weights(ADAPTED_BASE), vae_weights(BASE)
    name = "decoder.weight"
    moved, moved_last = ((new[name] - base[name]).abs().mean() for new in (averaged, last))
    assert 0 < moved < moved_last


@pytest.mark.slow
def test_killed_in_each_training_it_ends_with_the_same_bytes(
    prepared: Path, tmp_path: Path
) -> None:
    whole, killed = (adaptable(prepared, tmp_path / name) for name in ("whole", "killed"))
    recipe = {"crop": 16, "augment": True, "ema_decay": 0.9, "gradient_accumulation": 2}
    for folder in (whole, killed):
        autoencoder = learning(40, crop=16)
        settle(folder, adapt_base={"steps": 24, **recipe, "autoencoder": autoencoder})
    undisturbed = finish(whole, "adapt_base", ADAPTED_BASE)
    for network, how in (("vae", signal.SIGKILL), ("unet", signal.SIGTERM)):
        kill(killed, how, "adapt_base", ADAPTED_BASE, f"{network}.pt")
    assert finish(killed, "adapt_base", ADAPTED_BASE) == undisturbed
    for path in (AUTOENCODER_LOSSES, ADAPTATION_LOSSES):
        assert (killed / path).read_text() == (whole / path).read_text()
    assert len(curve(whole, "autoencoder/loss")) == 40
    assert len(curve(whole)) == 24


def test_what_mlflow_shows(place: Path) -> None:
    adapt(place, autoencoder=learning(12))
    client = mlflow.MlflowClient(f"sqlite:///{place / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("aerialdreams")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert {"autoencoder/loss", "autoencoder/learning_rate"} <= set(run.data.metrics)
    images = [item.path for item in client.list_artifacts(run.info.run_id, "images")]
    assert sum("autoencoder" in path and path.endswith(".png") for path in images) == 2


def test_the_result_says_what_was_trained(place: Path) -> None:
    adapt(place, autoencoder=learning(6))
    origin = json.loads((ADAPTED_BASE / "source.json").read_text())
    assert set(origin["adaptation"]["losses"]) == {"vae"}
    assert origin["adaptation"]["params"]["autoencoder"]["steps"] == 6
    words = base_in_words(origin, "Stable Diffusion")
    assert words.endswith("pipeline, its VAE's decoder adapted to FLAIR #1 in 6 steps")
    card = (ADAPTED_BASE / "README.md").read_text()
    assert "The decoder of its VAE has learnt" in card and "Its UNet has learnt" not in card
    assert "| trained weights of `vae/` | the decoder's |" in card
    assert "| `adapt_base.autoencoder.steps` | 6 |" in card
    adapt(place, steps=2, autoencoder=learning(6))
    origin = json.loads((ADAPTED_BASE / "source.json").read_text())
    assert base_in_words(origin, "").endswith(
        "adapted to FLAIR #1 in 2 steps, its VAE's decoder in 6"
    )


def test_its_params_identify_the_training(place: Path) -> None:
    ours, other = (
        adapt_base.identity_of(settle(place, adapt_base={"autoencoder": learning(8, noise=noise)}))
        for noise in (0, 0.5)
    )
    assert other | {"params": ours["params"]} == ours
    assert other["params"]["autoencoder.noise"] == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": -1}, r"adapt_base\.autoencoder\.steps: is -1; "),
        ({"noise": -0.1}, r"adapt_base\.autoencoder\.noise: is -0\.1; "),
        ({"crop": 24}, r"adapt_base\.autoencoder\.crop: is 24; "),
        ({"crop": 64}, r"adapt_base\.autoencoder\.crop: is 64; must be at most image_size, 32"),
        ({"batch_size": 5}, r"adapt_base: autoencoder\.batch_size: is 5; must be a multiple of"),
    ],
)
def test_bad_params_are_one_message(place: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        settle(place, adapt_base={"gradient_accumulation": 2, "autoencoder": changes})
    assert "\n" not in str(caught.value)
