"""adapt-base, small: passed on, all weights and low-rank updates, killed, in several processes."""

import json
import signal
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import Tensor

from aerialdreams.errors import UserError
from aerialdreams.models.families import load_base
from aerialdreams.paths import (
    ADAPTATION_LOSSES,
    ADAPTED_BASE,
    AUTOENCODER_LOSSES,
    BASE,
    CONTROLNET,
    DATASET,
)
from aerialdreams.pipeline.adapted_base_card import adapted_base_card
from aerialdreams.pipeline.base_adaptation import UNetAdaptation, Workplace
from aerialdreams.pipeline.publish import check_upload
from aerialdreams.training.adaptation import AdaptedUNet, denoising_loss
from aerialdreams.training.latents import Draws, ImageSource, LatentSource, TrainingBatches
from aerialdreams.training.noising import noisy_batch
from aerialdreams.util.files import dvc_md5, file_md5
from stages import adapt_base, encode_latents, train_controlnet
from tests.training.test_train_controlnet import (
    curve,
    finish,
    kill,
    new_place,
    prepare,
    settle,
    start,
    wait_for,
)

UNET = "unet/diffusion_pytorch_model.safetensors"
CARD = """---
license: other
license_name: their-licence
license_link: https://example.org/licence
---
# Their model

Derived from images © Their Agency.
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of noise and a base with random weights; see `prepare`."""
    folder = prepare(tmp_path_factory.mktemp("prepared"))
    (folder / BASE / "README.md").write_text(CARD, encoding="utf-8")
    return folder


@pytest.fixture
def place(prepared: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to adapt the base in."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return adaptable(prepared, workdir)


def adaptable(prepared: Path, folder: Path) -> Path:
    """A folder with dataset and base, and no adapted base."""
    new_place(prepared, folder)
    (folder / ADAPTED_BASE).unlink()
    return folder


def adapt(folder: Path, **changes: Any) -> str:
    """Run the stage in this process; gives its summary."""
    AcceleratorState._reset_state(reset_partial_state=True)  # one a process, in the real thing
    return adapt_base.main(settle(folder, adapt_base=changes))


def weights(folder: Path) -> dict[str, Tensor]:
    """The UNet's weights."""
    return load_file(folder / UNET)


def hashes(folder: Path) -> dict[str, str]:
    """MD5 of each file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): file_md5(path) for path in files}


def losses() -> list[float]:
    """The written curve."""
    rows = ADAPTATION_LOSSES.read_text().splitlines()[1:]
    return [float(row.split(",")[1]) for row in rows]


@torch.no_grad()
def loss_of(folder: Path) -> float:
    """Mean loss of a base on some batches that no training has drawn."""
    base = load_base(folder).to(torch.device("cpu"))
    source = ImageSource("train", 32, base.tokenizers)
    draws = Draws(seed=99, batch_size=8, caption_dropout=0, augment=False)
    batches = TrainingBatches(source, draws, base.latent_shape(32), base.num_train_timesteps)
    model = AdaptedUNet(base.unet, 0, 0)
    losses = [denoising_loss(model, base, batches[step]) for step in range(8)]
    return float(torch.cat(losses).mean())


def test_zero_steps_pass_the_base_on(place: Path) -> None:
    said = adapt(place)
    assert said == "0 steps, so that models/adapted_base has the files of models/base"
    assert hashes(ADAPTED_BASE) == hashes(BASE)
    assert dvc_md5(ADAPTED_BASE) == dvc_md5(BASE)
    assert ADAPTATION_LOSSES.read_text() == AUTOENCODER_LOSSES.read_text() == "step,loss\n"
    # Also in the place of an earlier one, whose files are the base's own.
    adapt(place)
    assert hashes(ADAPTED_BASE) == hashes(BASE)


@pytest.mark.parametrize("lora_rank", [0, 8])
def test_the_unet_learns_and_nothing_else_changes(place: Path, lora_rank: int) -> None:
    before = hashes(BASE)
    rate = 0.01 if lora_rank else 0.003
    said = adapt(place, steps=100, lora_rank=lora_rank, learning_rate=rate, caption_dropout=0)
    assert "weights trained for 100 steps of 4 on 12 patches, loss 0." in said
    assert hashes(BASE) == before
    assert loss_of(ADAPTED_BASE) < 0.95 * loss_of(BASE)
    assert len(losses()) == 2 and losses()[1] < losses()[0]
    after = hashes(ADAPTED_BASE)
    own = {UNET, "unet/config.json", "README.md", "source.json"}
    assert {name for name in before | after if before.get(name) != after.get(name)} <= own
    base, adapted = weights(BASE), weights(ADAPTED_BASE)
    assert {k: (v.shape, v.dtype) for k, v in adapted.items()} == {
        k: (v.shape, v.dtype) for k, v in base.items()
    }
    changed = {name for name in base if not torch.equal(base[name], adapted[name])}
    if lora_rank:  # an update has the rank that was asked for, and is of the blocks' layers alone
        name = "mid_block.resnets.0.conv1.weight"
        difference = (adapted[name] - base[name]).flatten(1)
        assert int(torch.linalg.matrix_rank(difference, rtol=1e-3)) <= lora_rank
        assert all("block" in name and name.endswith(".weight") for name in changed)
    else:
        assert {"conv_in.weight", "conv_out.bias"} <= changed


def test_the_result_says_what_it_is_made_from(place: Path) -> None:
    adapt(place, steps=2, lora_rank=4)
    before, after = (
        json.loads((base / "source.json").read_text()) for base in (BASE, ADAPTED_BASE)
    )
    assert {key: after[key] for key in ("source", "license")} == {
        key: before[key] for key in ("source", "license")
    }
    adaptation = after["adaptation"]
    assert adaptation["base_md5"] == dvc_md5(BASE)
    assert adaptation["dataset_md5"] == dvc_md5(DATASET)
    assert adaptation["params"]["lora_rank"] == 4
    assert "processes" not in adaptation["params"]
    assert set(after["sha256"]) == set(hashes(ADAPTED_BASE)) - {"source.json"}
    card = ADAPTED_BASE / "README.md"
    credits = settle(place).credits
    assert len(credits) == 2 and all(credit in adaptation["credits"] for credit in credits)
    # What is published needs licence and credits, the dataset's and those of the base's own card.
    upload = check_upload("base", [*credits, "© Their Agency"])
    assert upload.licence == "their-licence" and upload.repo_type == "model"
    assert UNET in {name for name, _ in upload.files}
    assert "license_link: https://example.org/licence" in card.read_text()


def test_a_base_of_the_hub_is_published_only_if_it_was_adapted(place: Path) -> None:
    adapt(place, steps=1)
    source = ADAPTED_BASE / "source.json"
    origin = json.loads(source.read_text()) | {"source": "hub", "id": "their/model"}
    source.write_text(json.dumps(origin))
    check_upload("base", [])
    del origin["adaptation"]
    source.write_text(json.dumps(origin))
    with pytest.raises(UserError, match="models/adapted_base: is their/model of the hub, unch"):
        check_upload("base", [])


def test_a_base_without_a_card_has_a_card_afterwards(place: Path) -> None:
    folder = place / "bare"
    folder.mkdir()
    (folder / "source.json").write_text('{"source": "folder", "license": null}')
    card = adapted_base_card(settle(place), folder, {"unet": 0.5})
    assert "license_name: see-card" in card and "ask the base model's publisher" in card
    assert "It has none." in card


def test_the_pipeline_goes_on_with_the_adapted_base(place: Path) -> None:
    adapt(place, steps=4)
    (place / "data").unlink()
    (place / "data").mkdir()
    (place / DATASET).symlink_to(prepared_dataset(place))
    AcceleratorState._reset_state(reset_partial_state=True)
    params = settle(place, steps=2, unlock_decoder_steps=1)
    encode_latents.main(params)
    train_controlnet.main(params)
    encoder = "down_blocks.0.resnets.0.conv1.weight"  # frozen, so that it is the adapted base's
    assert torch.equal(weights(CONTROLNET)[encoder], weights(ADAPTED_BASE)[encoder])
    assert not torch.equal(weights(CONTROLNET)[encoder], weights(BASE)[encoder])
    card = (CONTROLNET / "README.md").read_text()
    assert "trained from scratch by the pipeline, adapted to FLAIR #1 in 4 steps, MD5" in card
    assert "| `adapt_base.steps` | 4 |" in card


def prepared_dataset(place: Path) -> Path:
    """The dataset behind a place's link."""
    return (place / BASE).resolve().parents[1] / DATASET


EVERYTHING = {
    "steps": 24,
    "lora_rank": 4,
    "crop": 16,
    "augment": True,
    "ema_decay": 0.9,
    "gradient_accumulation": 2,
}


@pytest.mark.slow
@pytest.mark.parametrize("lora_rank", [4, pytest.param(0, marks=pytest.mark.large)])
def test_killed_anywhere_it_ends_with_the_same_bytes(
    prepared: Path, tmp_path: Path, lora_rank: int
) -> None:
    whole, killed = (adaptable(prepared, tmp_path / name) for name in ("whole", "killed"))
    for folder in (whole, killed):
        settle(folder, adapt_base=EVERYTHING | {"lora_rank": lora_rank})
    undisturbed = finish(whole, "adapt_base", ADAPTED_BASE)
    for how in (signal.SIGKILL, signal.SIGTERM):
        kill(killed, how, "adapt_base", ADAPTED_BASE)
    assert finish(killed, "adapt_base", ADAPTED_BASE) == undisturbed
    assert (killed / ADAPTATION_LOSSES).read_text() == (whole / ADAPTATION_LOSSES).read_text()
    assert curve(killed) == curve(whole)
    assert len(curve(whole)) == 24


@pytest.mark.slow
def test_another_number_of_steps_is_another_training(
    prepared: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = adaptable(prepared, tmp_path / "place")
    settle(folder, adapt_base={"steps": 200})
    process = start(folder, "adapt_base")
    wait_for(lambda: any((folder / "scratch").rglob("*.pt")), process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 3
    settle(folder, adapt_base={"steps": 8})
    process = start(folder, "adapt_base")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "adapt-base: not resuming from" in errors and "params.steps is 8, there 200" in errors


@pytest.mark.slow
def test_two_processes_learn_as_one(prepared: Path, tmp_path: Path) -> None:
    one, two = (adaptable(prepared, tmp_path / name) for name in ("one", "two"))
    recipe = {"steps": 12, "lora_rank": 4, "autoencoder": {"steps": 8, "batch_size": 4}}
    settle(one, adapt_base=recipe)
    finish(one, "adapt_base", ADAPTED_BASE)
    both = {"processes": 2, "gradient_accumulation": 2}
    settle(two, adapt_base=recipe | both, loaders=1)
    finish(two, "adapt_base", ADAPTED_BASE)
    for name in ("loss", "autoencoder/loss"):
        assert curve(two, name) == pytest.approx(curve(one, name), rel=1e-4)
    for file in (UNET, UNET.replace("unet", "vae")):
        ours, theirs = (load_file(folder / ADAPTED_BASE / file) for folder in (one, two))
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-3) for name in ours)


def test_how_the_work_is_done_changes_nothing(place: Path) -> None:
    def trained(**changes: Any) -> list[float]:
        AcceleratorState._reset_state(reset_partial_state=True)
        params = settle(place, adapt_base={"steps": 6, **changes})
        adaptation = UNetAdaptation(Workplace(params))
        adaptation.checkpoint.path = place / "unet.pt"
        adapt_base.train(adaptation, None)
        for path in place.glob("*.pt"):
            path.unlink()
        return adaptation.losses.values

    plain = trained()
    assert trained(gradient_accumulation=4) == pytest.approx(plain, rel=1e-5)
    assert trained(gradient_checkpointing=True) == pytest.approx(plain, rel=1e-5)
    rounded = trained(precision="bf16")
    assert rounded == pytest.approx(plain, rel=0.05) and rounded != plain
    low_rank = trained(lora_rank=4)
    assert low_rank[0] == pytest.approx(plain[0], rel=1e-5)  # the updates are zero at first
    assert low_rank[-1] != pytest.approx(plain[-1], rel=1e-5)


def test_crops_of_images_are_crops_of_their_latents(place: Path) -> None:
    """The tiny base's autoencoder works on blocks of pixels, so that both ways are the same."""
    base = load_base(BASE).to(torch.device("cpu"))
    draws = Draws(seed=0, batch_size=4, caption_dropout=0.5, augment=True, crop=4)
    cached, images = (
        TrainingBatches(source, draws, base.latent_shape(32), base.num_train_timesteps)
        for source in (LatentSource(), ImageSource("train", 32, base.tokenizers))
    )
    ours, theirs = (noisy_batch(base, batches[5]) for batches in (cached, images))
    assert ours.added is None and theirs.added is None  # SDXL's alone
    for name in ("latents", "timesteps", "text", "target", "mask"):
        cached_part, encoded_part = getattr(ours, name).float(), getattr(theirs, name).float()
        assert torch.allclose(cached_part, encoded_part, atol=1e-4), name
    assert ours.latents.shape[-2:] == (4, 4) and ours.mask.shape[-2:] == (16, 16)


def test_what_mlflow_shows(place: Path) -> None:
    adapt(place, steps=12)
    client = mlflow.MlflowClient(f"sqlite:///{place / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("aerialdreams")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "adapt-base" and run.info.status == "FINISHED"
    curves = {"loss", "learning_rate", "gradient_norm", "samples_per_second", "loss_t000_249"}
    assert curves <= set(run.data.metrics)
    assert run.data.tags["md5.models/base"] == dvc_md5(BASE)
    assert run.data.tags["md5.models/adapted_base"] == dvc_md5(ADAPTED_BASE)
    images = [item.path for item in client.list_artifacts(run.info.run_id, "images")]
    assert sum(path.endswith(".png") for path in images) == 2


def test_only_what_decides_the_weights_identifies_a_training(place: Path) -> None:
    ours = adapt_base.identity_of(settle(place, adapt_base={"steps": 8}))
    how = {"processes": 2, "gradient_accumulation": 2, "gradient_checkpointing": True}
    assert adapt_base.identity_of(settle(place, adapt_base={"steps": 8, **how})) == ours
    other = adapt_base.identity_of(settle(place, adapt_base={"steps": 8, "lora_rank": 2}))
    assert other | {"params": ours["params"]} == ours and other != ours


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": -1}, r"adapt_base\.steps: is -1; "),
        ({"lora_rank": -4}, r"adapt_base\.lora_rank: is -4; "),
        ({"crop": 24}, r"adapt_base\.crop: is 24; "),
        ({"crop": 64}, r"adapt_base\.crop: is 64; must be at most image_size, 32"),
        ({"gradient_accumulation": 3}, r"adapt_base: batch_size: is 4; must be a multiple of"),
        ({"rank": 4}, r"adapt_base\.rank: unknown key"),
    ],
)
def test_bad_params_are_one_message(place: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        settle(place, adapt_base=changes)
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_is_said_before_any_work(place: Path) -> None:
    with pytest.raises(UserError, match=r"adapt_base\.precision: fp16 needs a GPU"):
        adapt(place, steps=2, precision="fp16")
    with pytest.raises(UserError, match=r"adapt_base\.optimizer: adamw_8bit needs a GPU"):
        adapt(place, steps=2, optimizer="adamw_8bit")
    (place / BASE).unlink()
    with pytest.raises(UserError, match=r"models/base: no base model; run `dvc repro base-model`"):
        adapt(place)
