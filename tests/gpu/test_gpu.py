"""The pipeline on a GPU; what is measured is printed. `scripts/test-gpu` runs these."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from aerialdreams.generation.batch import GenerationRequest, generate_batch
from aerialdreams.generation.painter import Painter
from aerialdreams.models.conditioning import MaskConditioning
from aerialdreams.models.controlnet import new_controlnet
from aerialdreams.models.families import load_base
from aerialdreams.models.sampling import Sampling
from aerialdreams.params import Params, load_params
from aerialdreams.util.files import dvc_md5
from aerialdreams.util.torch_setup import inference_autocast
from tests.projects import clone, dvc, environment, run, set_params

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
CUDA = torch.device("cuda")
TRAINED = ("models/adapted_base", "models/segmenter", "models/controlnet", "data/generated")


def report(name: str, value: str) -> None:
    """Print a line of the report."""
    print(f"\n{name}: {value}", flush=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which the small pipeline ran on the GPU."""
    folder = clone(tmp_path_factory.mktemp("gpu") / "project")
    began = time.monotonic()
    done = dvc(folder, "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    report("small pipeline", f"{time.monotonic() - began:.0f} s")
    return folder


def test_every_stage_runs(project: Path) -> None:
    scores = json.loads((project / "metrics/evaluation.json").read_text())["validation"]
    assert 0 < scores["generated"]["miou"] <= 1
    report("mIoU of real images", f"{scores['real']['miou']:.3f}")


def test_a_second_run_and_a_killed_one_give_the_same_bits(project: Path, tmp_path: Path) -> None:
    expected = {path: dvc_md5(project / path) for path in TRAINED}
    again = clone(tmp_path / "again")
    with (again / "log").open("w") as log:
        process = subprocess.Popen(["dvc", "repro"], cwd=again, env=environment(), stderr=log)
        deadline = time.monotonic() + 600
        while not list(again.glob("scratch/train-controlnet-*/*.pt")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    done = dvc(again, "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path: dvc_md5(again / path) for path in TRAINED} == expected
    report("killed, resumed and run twice", "the same bits")


def test_without_determinism(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    shutil.copytree(project, folder, symlinks=True)
    set_params(folder, {"compute": {"deterministic": False}})
    done = run(folder, "python", "-m", "stages.train_controlnet")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_painter_in_each_precision(
    project: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    mask = np.full((96, 128), 5, np.uint8)
    exact = Painter(precision="fp32").paint(mask, "Aerial view of France. water.").astype(int)
    image = Painter(precision=precision).paint(mask, "Aerial view of France. water.")
    difference = np.abs(exact - image).mean()
    report(f"painter, {precision}", f"mean difference to fp32 {difference:.2f} grey levels")
    assert difference < 8


@pytest.fixture(scope="module")
def real_sizes(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with networks of Stable Diffusion 2.1's sizes."""
    from benchmarks.sd21_sizes import make_project

    folder = tmp_path_factory.mktemp("sd21")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        make_project(folder, 8, "bf16")
    return folder


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("40 GB: AdamW", {}),
        ("24 GB: gradient checkpointing", {"gradient_checkpointing": True}),
        (
            "16 GB: gradient checkpointing, 8-bit AdamW",
            {"gradient_checkpointing": True, "optimizer": "paged_adamw_8bit"},
        ),
        ("torch.compile", {"compile": True}),
    ],
)
def test_training_at_real_sizes(
    real_sizes: Path, tmp_path: Path, name: str, changes: dict[str, object]
) -> None:
    """Batches of 64 in eight micro-batches at 512 pixels, in bf16."""
    folder = tmp_path / "project"
    shutil.copytree(real_sizes, folder, symlinks=True)
    set_params(
        folder,
        {
            "train_controlnet": {"steps": 6, "batch_size": 64, "gradient_accumulation": 8}
            | changes,
            "tracking": {"log_every": 2, "images_every": 6, "images": 1},
        },
    )
    probe = (
        "import torch, runpy, sys, atexit\n"
        "atexit.register(lambda: print('peak', torch.cuda.max_memory_allocated()))\n"
        "runpy.run_module('stages.train_controlnet', run_name='__main__')"
    )
    began = time.monotonic()
    done = run(folder, "python", "-c", probe)
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.split("peak ")[1].split()[0]) / 1e9
    report(name, f"peak {peak:.1f} GB, {time.monotonic() - began:.0f} s with loading and saving")


def test_a_generation_batch_at_real_sizes(
    real_sizes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(real_sizes)
    params: Params = load_params(real_sizes / "params.yaml")
    base = load_base().to(CUDA)
    conditioning = MaskConditioning("one_hot", tuple(params.classes))
    controlnet = new_controlnet(base.unet, conditioning, [16, 32, 96, 256], 0).eval().to(CUDA)
    mask = np.full((512, 512), 5, np.uint8)
    requests = [GenerationRequest(str(n), mask, "Aerial view of France.") for n in range(16)]
    sampling = Sampling("ddim", 30, 4.0, 1.0)
    torch.cuda.reset_peak_memory_stats()
    with inference_autocast(CUDA, "bf16"):
        generate_batch(base, controlnet, conditioning, requests, sampling, 0)  # warm-up
        began = time.monotonic()
        images = generate_batch(base, controlnet, conditioning, requests, sampling, 0)
    seconds = time.monotonic() - began
    assert images.shape == (16, 512, 512, 3)
    peak = torch.cuda.max_memory_allocated() / 1e9
    report("16 images of 512 pixels, 30 steps", f"{seconds:.1f} s, peak {peak:.1f} GB")
