"""train-controlnet, small: killed, in several processes, with and without a cache; its result."""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from datasets import Dataset
from diffusers import ControlNetModel
from PIL import Image
from safetensors.torch import load_file

from aerialdreams.data.land_cover import palette
from aerialdreams.errors import UserError
from aerialdreams.models.families import BaseModel, load_base
from aerialdreams.models.tiny import new_scheduler
from aerialdreams.params import Params, load_params
from aerialdreams.paths import ADAPTED_BASE, BASE, COMPOSED, CONTROLNET, DATASET, FREQUENCIES
from aerialdreams.training.controlnet import warm_start
from aerialdreams.training.latents import Draws, ImageSource, LatentSource, TrainingBatches
from aerialdreams.training.losses import snr_weights
from aerialdreams.util.files import dvc_md5
from aerialdreams.util.torch_setup import configure_torch
from stages import compose_masks, encode_latents, train_controlnet
from stages.dataset import FEATURES
from tests.conftest import ROOT
from tests.projects import merge
from tests.tiny import new_model, save_base, tiny_stable_diffusion

SMALL: dict[str, Any] = {
    "image_size": 32,
    "compute": {"threads": 1},
    "runtime": {"checkpoint_every": 4},
    "base_model": {
        "tiny": {"autoencoder": {"channels": 8}, "unet": {"channels": [16, 24], "crop": 16}}
    },
    "tracking": {"log_every": 1, "images_every": 12, "images": 2},
    "encode_latents": {"all_orientations": True, "validation_patches": 3},
    "adapt_base": {"batch_size": 4, "warmup_steps": 4},
    "train_controlnet": {
        "embedding_channels": [8, 16, 16],
        "steps": 24,
        "crop": 0,
        "batch_size": 4,
        "unlock_decoder_steps": 0,
        "warmup_steps": 4,
        "validation_every": 8,
        "sampling": {"steps": 2},
    },
}


def tiny_base(params: Params, captions: list[str]) -> BaseModel:
    """The tiny base with random weights."""
    return tiny_stable_diffusion(params, captions, 32)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `prepare`; made once."""
    return prepare(tmp_path_factory.mktemp("prepared"))


def prepare(folder: Path, base: Callable[[Params, list[str]], BaseModel] = tiny_base) -> Path:
    """Put patches of noise (12, 4, 2), a base of noise and latents into a folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        values = yaml.safe_load((ROOT / "params.yaml").read_text())
        merge(values, SMALL)
        params = Params.model_validate(values)
        draw = np.random.default_rng(0)
        for split, count in (("train", 12), ("validation", 4), ("test", 2)):
            write_patches(split, count, draw, params)
        for place in (BASE, ADAPTED_BASE):
            save_base(base(params, ["Aerial view of 0. Number 1 from above."]), place)
        COMPOSED.mkdir()
        compose_masks.write_list(COMPOSED, [])
        configure_torch(1)
        encode_latents.main(params)
        # Made once: MLflow takes seconds to build its tables.
        mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_experiments()
    finally:
        os.chdir(before)
    return folder


def write_patches(split: str, count: int, draw: np.random.Generator, params: Params) -> None:
    """Shards of pictures and masks of squares; every patch has two captions."""
    (DATASET / "data").mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[Any]] = {name: [] for name in FEATURES}
    for number in range(count):
        squares = draw.integers(1, 20, (8, 8), np.uint8).repeat(64, 0).repeat(64, 1)
        mask = Image.fromarray(squares)
        mask.putpalette(palette(params.classes))
        rows["mask"].append(mask)
        rows["image"].append(Image.fromarray(draw.integers(0, 256, (512, 512, 3), np.uint8)))
        rows["captions"].append([f"Aerial view of {number}.", f"Number {number} from above."])
        rows["caption"].append(rows["captions"][-1][0])
        rows["patch_id"].append(f"{number:06d}")
        rows["group"].append("D014_2020")
        rows["zone"].append("Z1_UA")
        rows["origin_x"].append(700_000 + 102.4 * number)
        rows["origin_y"].append(6_600_000.0)
        rows["crs"].append("EPSG:2154")
        rows["extent"].append(102.4)
        rows["pixel_size"].append(0.2)
        for name in ("longitude", "latitude", "date"):
            rows[name].append(None)
    for part in range(0, count, 6):
        some = {name: values[part : part + 6] for name, values in rows.items()}
        path = DATASET / f"data/{split}-{part // 6:05d}-of-{-(-count // 6):05d}.parquet"
        Dataset.from_dict(some, features=FEATURES).to_parquet(path)


@pytest.fixture
def place(prepared: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to train in, on what is prepared."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    AcceleratorState._reset_state(reset_partial_state=True)  # one a process, in the real thing
    return new_place(prepared, workdir)


def new_place(prepared: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "models").mkdir()
    (folder / "data").symlink_to(prepared / "data")
    for base in (BASE, ADAPTED_BASE):
        (folder / base).symlink_to(prepared / base)
    (folder / "metrics").mkdir()
    shutil.copy(ROOT / FREQUENCIES, folder / FREQUENCIES)
    shutil.copy(prepared / "mlflow.db", folder)
    return folder


def settle(folder: Path, **changes: Any) -> Params:
    """Write params.yaml with the small values and these of train_controlnet; gives the params.

    Args:
        folder: to write it to.
        changes: of train_controlnet, but for the groups and params of `runtime` that are named.
    """
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    runtime = {key: changes.pop(key) for key in ("loaders", "checkpoint_every") if key in changes}
    groups = {key: changes.pop(key, {}) for key in ("tracking", "adapt_base")}
    more = {"train_controlnet": changes, "runtime": runtime, **groups}
    merge(values, SMALL)
    merge(values, more)
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return load_params(folder / "params.yaml")


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_TR")}
    return kept | {"PYTHONPATH": str(ROOT)}


def start(folder: Path, stage: str = "train_controlnet") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"stages.{stage}"]
    return subprocess.Popen(
        command, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True
    )


def finish(folder: Path, stage: str = "train_controlnet", output: Path = CONTROLNET) -> str:
    """Train to the end; gives the hash of the model."""
    process = start(folder, stage)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert not list((folder / "scratch").rglob("*.pt"))
    return dvc_md5(folder / output)


def curve(folder: Path, name: str = "loss") -> list[float]:
    """A curve in MLflow, point by point."""
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("aerialdreams")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    points = client.get_metric_history(run.info.run_id, name)
    assert [p.step for p in points] == sorted({p.step for p in points})  # each once, in order
    return [p.value for p in points]


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def kill(
    folder: Path,
    how: signal.Signals,
    stage: str,
    output: Path,
    states: str = "*.pt",
    later: float = 0,
) -> None:
    """Start a stage, and kill it some seconds after it has saved a state; it leaves no output."""
    process, scratch = start(folder, stage), folder / "scratch"
    before = {path: path.stat().st_mtime_ns for path in scratch.rglob("*.pt")}
    wait_for(
        lambda: any(before.get(path) != path.stat().st_mtime_ns for path in scratch.rglob(states)),
        process,
    )
    time.sleep(later)
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    if how == signal.SIGTERM:
        assert process.returncode == 3, errors
        assert "resumes from what was saved" in errors
    assert not (folder / output).exists()


EVERYTHING = {
    "augment": True,
    "ema_decay": 0.9,
    "min_snr_gamma": 5.0,
    "unlock_decoder_steps": 10,
    "gradient_accumulation": 2,
}


@pytest.mark.slow
def test_killed_anywhere_it_ends_with_the_same_bytes(prepared: Path, tmp_path: Path) -> None:
    whole, killed = (new_place(prepared, tmp_path / name) for name in ("whole", "killed"))
    for folder in (whole, killed):
        settle(folder, **EVERYTHING)
    undisturbed = finish(whole)
    draw = random.Random(0)
    for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        kill(killed, how, "train_controlnet", CONTROLNET, later=draw.uniform(0, 0.3))
    assert finish(killed) == undisturbed
    for name in ("controlnet.csv", "controlnet_validation.csv"):
        assert (killed / "metrics" / name).read_text() == (whole / "metrics" / name).read_text()
    assert curve(killed) == curve(whole)
    assert len(curve(whole)) == 24
    assert curve(killed, "validation_loss") == curve(whole, "validation_loss")
    # The UNet's decoder was trained with it, its encoder was not.
    base = load_base(whole / BASE).unet.state_dict()
    trained = torch.nn.Module.state_dict(
        type(load_base(whole / BASE).unet).from_pretrained(whole / CONTROLNET / "unet")
    )
    changed = {name.split(".")[0] for name in base if not torch.equal(base[name], trained[name])}
    assert changed == {"up_blocks", "conv_norm_out", "conv_out"}


@pytest.mark.slow
def test_two_processes_learn_as_one(prepared: Path, tmp_path: Path) -> None:
    """With averaged weights, an unlocked decoder, micro-batches and loaders; resumed by one."""
    one, two = (new_place(prepared, tmp_path / name) for name in ("one", "two"))
    recipe = {"steps": 30, "ema_decay": 0.9, "unlock_decoder_steps": 12}
    settle(one, **recipe)
    finish(one)
    settle(two, **recipe, processes=2, gradient_accumulation=2, loaders=1)
    process = start(two)  # stopped once on the way, as where a machine is taken away
    wait_for(lambda: any((two / "scratch").rglob("*.pt")), process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 3
    settle(two, **recipe, processes=1)  # the next machine has one GPU
    finish(two)
    assert len(curve(two)) == 30
    assert curve(two) == pytest.approx(curve(one), rel=1e-4)
    assert curve(two, "loss_t000_249") == pytest.approx(curve(one, "loss_t000_249"), rel=1e-4)
    for name in ("", "unet/"):
        path = f"models/controlnet/{name}diffusion_pytorch_model.safetensors"
        ours, theirs = (load_file(folder / path) for folder in (one, two))
        for key, weights in ours.items():
            assert torch.allclose(weights, theirs[key], atol=1e-3), key


def trained(folder: Path, **changes: Any) -> list[float]:
    """Losses of a training in this process, step by step."""
    AcceleratorState._reset_state(reset_partial_state=True)
    training = train_controlnet.set_up(settle(folder, **changes))
    training.checkpoint.path = folder / "controlnet.pt"
    train_controlnet.train(training, None)
    for path in folder.glob("*.pt"):
        path.unlink()
    return training.losses.values


@pytest.mark.slow
def test_with_and_without_a_cache_losses_are_equal(place: Path) -> None:
    cached = trained(place, augment=True)
    assert trained(place, augment=True, latent_cache=False) == pytest.approx(cached, rel=1e-4)
    assert trained(place) != pytest.approx(cached, rel=1e-2)  # it does turn


@pytest.mark.slow
def test_how_the_work_is_done_changes_nothing(place: Path) -> None:
    plain = trained(place)
    assert trained(place, loaders=2) == plain
    assert trained(place, gradient_accumulation=4) == pytest.approx(plain, rel=1e-5)
    assert trained(place, gradient_checkpointing=True) == pytest.approx(plain, rel=1e-5)
    assert trained(place, attention="eager") == pytest.approx(plain, rel=1e-4)
    rounded = trained(place, precision="bf16")
    assert rounded == pytest.approx(plain, rel=0.05)
    assert rounded != pytest.approx(plain, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4", "ACCELERATE_MIXED_PRECISION": "bf16"},
        {"WORLD_SIZE": "2"},
        {"RANK": "1"},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_variables_of_launchers_change_no_weights(
    place: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    plain = trained(place, steps=6)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert trained(place, steps=6) == plain


def test_samples_are_functions_of_the_step(place: Path) -> None:
    params = settle(place, augment=True)
    stage, shape = params.train_controlnet, (4, 16, 16)
    draws = Draws(stage.seed, stage.batch_size, stage.caption_dropout, stage.augment)
    whole = TrainingBatches(LatentSource(), draws, shape, 1000)
    halves = [TrainingBatches(LatentSource(), draws, shape, 1000, rank, 2) for rank in (0, 1)]
    for step in (0, 7, 100):
        batch, parts = whole[step], [half[step] for half in halves]
        for name, tensor in batch.items():
            assert torch.equal(tensor, torch.cat([part[name] for part in parts])), name
    # A turned mask is its turned image's: both come from the same patch, by another way.
    source = ImageSource("train", 32, load_base().tokenizers)
    images = TrainingBatches(source, draws, shape, 1000)
    assert torch.equal(images[3]["mask"], whole[3]["mask"])


def test_the_result_is_used_as_its_card_says(place: Path) -> None:
    for conditioning in ("one_hot", "colours"):
        params = settle(place, conditioning=conditioning, steps=4)
        said = train_controlnet.main(params)
        assert re.search(
            r"trained for 4 steps of 4 on 12 patches, loss \d\.\d+, validation loss \d", said
        )
        controlnet = ControlNetModel.from_pretrained(CONTROLNET)
        assert controlnet.config["conditioning_channels"] == (
            19 if conditioning == "one_hot" else 3
        )
        assert [p.name for p in CONTROLNET.glob("*.safetensors")] == [
            "diffusion_pytorch_model.safetensors"
        ]
        card = (CONTROLNET / "README.md").read_text()
        for words in ("Licence Ouverte 2.0", "ODbL 1.0", dvc_md5(DATASET), "learning_rate"):
            assert words in card
        mask = Image.fromarray(np.full((64, 64), 5, np.uint8))
        mask.putpalette(palette(params.classes))
        mask.save("mask.png")
        (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        exec(code, {})
        with Image.open("photograph.png") as image:
            assert image.size == (32, 32)


def test_min_snr_weighs_by_noise() -> None:
    timesteps = torch.tensor([0, 500, 999])
    for prediction in ("epsilon", "v_prediction"):
        scheduler = new_scheduler(prediction)
        alphas = scheduler.alphas_cumprod[timesteps]
        snr = alphas / (1 - alphas)
        clamped = torch.minimum(snr, torch.tensor(5.0))
        expected = clamped / (snr + 1 if prediction == "v_prediction" else snr)
        weights = snr_weights(scheduler, timesteps, 5.0)
        assert weights.tolist() == pytest.approx(expected.tolist(), rel=1e-4)
        assert snr_weights(scheduler, timesteps, 0).tolist() == [1, 1, 1]


def test_a_warm_start_is_the_one_that_is_meant(place: Path) -> None:
    params = settle(place, steps=4)
    train_controlnet.main(params)
    CONTROLNET.rename("models/first")
    folder = {"folder": "models/first", "md5": ""}
    with pytest.raises(
        UserError, match=r"warm_start\.md5: is '', but models/first has \w+\.dir; set"
    ):
        train_controlnet.main(settle(place, warm_start=folder))
    folder["md5"] = dvc_md5(Path("models/first"))
    with pytest.raises(UserError, match=r"models/first: does not fit the base model"):
        train_controlnet.main(settle(place, warm_start=folder, conditioning="colours"))
    model = new_model(settle(place), load_base())
    warm_start(model, Path(folder["folder"]), folder["md5"])
    first = ControlNetModel.from_pretrained("models/first").state_dict()
    warm = model.controlnet.state_dict()
    assert all(torch.equal(first[name], warm[name]) for name in first)


def test_only_what_decides_the_weights_identifies_a_training(place: Path) -> None:
    ours = train_controlnet.identity_of(settle(place))
    how = {"processes": 2, "gradient_accumulation": 2, "gradient_checkpointing": True}
    assert train_controlnet.identity_of(settle(place, **how, tracking={"log_every": 7})) == ours
    other = train_controlnet.identity_of(settle(place, learning_rate=0.001))
    assert other["params"] != ours["params"]
    assert other | {"params": ours["params"]} == ours
    assert ours["inputs"]["data/dataset"] == dvc_md5(DATASET)


def test_the_embedding_must_fit_the_base(place: Path) -> None:
    with pytest.raises(UserError, match=r"embedding_channels: has 2 widths; .* needs 3"):
        train_controlnet.main(settle(place, embedding_channels=[8, 16]))


@pytest.mark.slow
def test_a_wrong_number_of_processes_is_named(place: Path) -> None:
    settle(place, processes=2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", "stages.train_controlnet"],
        cwd=place,
        env=environment() | ranks | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert "train_controlnet.processes: is 2, but 1 were started; set it to 1" in ended.stderr


def test_what_mlflow_shows(place: Path) -> None:
    finish_params = settle(place)
    train_controlnet.main(finish_params)
    client = mlflow.MlflowClient(f"sqlite:///{place / 'mlflow.db'}")
    (version,) = client.search_model_versions("name = 'aerialdreams-controlnet'")
    run = client.get_run(version.run_id)
    curves = {"loss", "learning_rate", "gradient_norm", "samples_per_second", "memory_megabytes"}
    assert curves | {"validation_loss", "loss_t750_999"} <= set(run.data.metrics)
    assert run.data.metrics["samples_per_second"] > 0 and run.data.metrics["gradient_norm"] > 0
    digests = {used.dataset.name: used.dataset.digest for used in run.inputs.dataset_inputs}
    assert digests["dataset"] == dvc_md5(DATASET)
    assert version.tags["md5.models/controlnet"] == dvc_md5(CONTROLNET)
    files = {Path(item.path).name for item in client.list_artifacts(version.run_id, "controlnet")}
    assert {"config.json", "README.md", "diffusion_pytorch_model.safetensors"} <= files
    assert json.loads((CONTROLNET / "config.json").read_text())["conditioning_channels"] == 19
