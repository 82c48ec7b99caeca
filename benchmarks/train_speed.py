"""Compare train-controlnet with diffusers' train_controlnet.py: samples per second and peak memory.

Usage   python -m benchmarks.train_speed --peer PATH [--steps N] [--rounds N] [--keep FOLDER]
                                         [--sd21 PRECISION [--batch N]]
PATH is examples/controlnet/train_controlnet.py of diffusers' repository, which needs tensorboard
and torchvision; if torchvision is not installed, Pillow replaces its transforms. Run it after
`dvc repro encode-latents`. Both use the model, data, batch size and precision of params.yaml, and
masks in colours, the only conditioning that the peer supports. They run alternately in separate
processes. The time of a step is the median time between calls of AdamW.step; memory is the peak of
the process, or of torch on the GPU. On a GPU, the share of time in which no kernel runs is also
measured over ten steps. --keep saves the peer's ControlNet. --sd21 bf16 trains networks of Stable
Diffusion 2.1's sizes with random weights at 512 pixels.
"""

import argparse
import json
import os
import resource
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import stages  # noqa: F401  (sets the libraries' environment before they are imported)
from aerialdreams.params import Params, load_params

LINKS = ("data", "models/adapted_base", "metrics/class_frequencies.csv", "params.yaml")
PROFILED = range(30, 40)  # steps in which GPU kernels are profiled; only earlier steps are timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--sd21", choices=("fp32", "fp16", "bf16"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--probe", choices=("ours", "peer"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.steps < 5:
        parser.error("--steps: must be at least 5, because the first steps are a warm-up")
    if arguments.probe:
        probe(arguments.probe, arguments.peer, arguments.steps)
        return
    with tempfile.TemporaryDirectory(prefix="aerialdreams-") as folder:
        root = Path.cwd()
        if arguments.sd21:
            from benchmarks.sd21_sizes import make_project

            root = Path(folder)
            make_project(root, arguments.batch, arguments.sd21)
        results: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
        for _ in range(arguments.rounds):
            for trainer, runs in results.items():
                runs.append(run(trainer, arguments, root))
        batch_size = load_params(root / "params.yaml").train_controlnet.batch_size
        print(report(results, batch_size, arguments.steps))


def report(results: dict[str, list[dict[str, float]]], batch_size: int, steps: int) -> str:
    """A line for each trainer, and a line of JSON."""
    speed = {name: batch_size / min(r["seconds"] for r in runs) for name, runs in results.items()}
    memory = {name: min(r["megabytes"] for r in runs) for name, runs in results.items()}
    lines = [
        f"{name:5} {speed[name]:7.2f} samples/s {memory[name]:8.0f} MB peak" for name in results
    ]
    numbers = {
        "ours": speed["ours"],
        "peer": speed["peer"],
        "ratio": speed["ours"] / speed["peer"],
        "units": "samples/s",
        "memory_megabytes": memory,
        "memory_ratio": memory["ours"] / memory["peer"],
        "steps": steps,
        "slowest_over_median": {
            name: [r["slowest"] for r in runs] for name, runs in results.items()
        },
        "share_without_kernels": {
            name: [r["idle"] for r in runs] for name, runs in results.items()
        },
        "versions": versions(),
        "cores": os.cpu_count(),
    }
    return "\n".join([*lines, json.dumps(numbers)])


def run(trainer: str, arguments: argparse.Namespace, root: Path) -> dict[str, float]:
    """Run one training in a folder of its own; return its measurements."""
    with linked_project(root, LINKS) as folder:
        words = ["--probe", trainer]
        words += ["--peer", str(arguments.peer.resolve()), "--steps", str(arguments.steps)]
        result: dict[str, float] = run_part("benchmarks.train_speed", words, folder)
        if trainer == "peer" and arguments.keep:
            (folder / "peer").rename(arguments.keep)
    return result


@contextmanager
def linked_project(root: Path, names: Sequence[str]) -> Iterator[Path]:
    """A temporary folder with links to some files and folders of a project."""
    with tempfile.TemporaryDirectory(prefix="aerialdreams-") as folder:
        for name in names:
            link = Path(folder) / name
            link.parent.mkdir(exist_ok=True)
            link.symlink_to((root / name).resolve())
        yield Path(folder)


def run_part(module: str, words: list[str], folder: Path) -> Any:
    """Run a part of a benchmark in a process of its own; return the JSON of its last line.

    Args:
        module: of the benchmark.
        words: its arguments.
        folder: where to run it.
    """
    paths = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    finished = subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
    )
    if finished.returncode:
        sys.exit(f"{module} {words[1]} failed: see above")
    return json.loads(finished.stdout.splitlines()[-1])


def probe(trainer: str, peer: Path, steps: int) -> None:
    """Train in this process with a timer around AdamW.step; print a line of JSON."""
    import torch

    params, times, peaks = load_params(), [], []
    torch.set_num_threads(params.compute.threads)
    step, cuda = torch.optim.AdamW.step, torch.cuda.is_available()
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])

    def timed_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = step(self, *args, **kwargs)
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter())
        allocated = torch.cuda.max_memory_allocated() if cuda else None
        peaks.append((allocated or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1000) / 1e6)
        if cuda and len(times) in (PROFILED.start, PROFILED.stop):
            (profiler.start if len(times) == PROFILED.start else profiler.stop)()
        return result

    torch.optim.AdamW.step = timed_step  # type: ignore[method-assign]
    (run_ours if trainer == "ours" else run_peer)(params, peer, steps)
    intervals = np.diff(times)[3 : PROFILED.start - 1]  # without the warm-up
    median = statistics.median(intervals)
    idle = None
    if cuda and len(times) >= PROFILED.stop:
        busy = sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6
        idle = 1 - busy / (times[PROFILED.stop - 1] - times[PROFILED.start - 1])
    report = {"seconds": median, "megabytes": peaks[-1], "slowest": max(intervals) / median}
    print(json.dumps(report | {"idle": idle}))


def run_ours(params: Params, peer: Path, steps: int) -> None:
    """Run the stage with a single validation image, because the peer generates none."""
    from stages import train_controlnet

    values = params.model_dump()
    values["train_controlnet"] |= {
        "conditioning": "colours",
        "steps": steps,
        "validation_every": steps,
    }
    values["tracking"] |= {"images_every": steps, "images": 1}
    train_controlnet.main(Params.model_validate(values))


def run_peer(params: Params, peer: Path, steps: int, save_every: int = 0) -> None:
    """Run diffusers' script from the same initial ControlNet.

    Args:
        params: all params.
        peer: the script.
        steps: of training.
        save_every: steps between saved checkpoints; 0 for none.
    """
    import accelerate  # noqa: F401  (these detect torchvision, and must not find the replacement)
    import datasets  # noqa: F401
    import diffusers
    import torch
    import transformers  # noqa: F401
    from diffusers import StableDiffusionControlNetPipeline, UNet2DConditionModel  # noqa: F401
    from transformers import CLIPTextModel  # noqa: F401

    from aerialdreams.models.conditioning import MaskConditioning
    from aerialdreams.models.controlnet import new_controlnet
    from aerialdreams.models.latent_diffusion import load_vae

    # The script loads the VAE as an AutoencoderKL; the tiny base has a LinearAutoencoder.
    diffusers.AutoencoderKL = types.SimpleNamespace(
        from_pretrained=lambda *args, **kwargs: load_vae()
    )
    if "torchvision" not in sys.modules:
        sys.modules["torchvision"] = pillow_transforms()
    stage = params.train_controlnet
    unet = UNet2DConditionModel.from_pretrained("models/adapted_base/unet")
    conditioning = MaskConditioning("colours", tuple(params.classes))
    start = new_controlnet(unet, conditioning, stage.embedding_channels, stage.seed)
    start.save_pretrained("start")
    options = {
        "pretrained_model_name_or_path": "models/adapted_base",
        "controlnet_model_name_or_path": "start",
        "train_data_dir": "data/dataset",
        "conditioning_image_column": "mask",
        "caption_column": "caption",
        "proportion_empty_prompts": stage.caption_dropout,
        "resolution": params.image_size,
        "train_batch_size": stage.batch_size,
        "max_train_steps": steps,
        "checkpointing_steps": save_every or 10 * steps,
        "learning_rate": stage.learning_rate,
        "lr_scheduler": stage.schedule,
        "lr_warmup_steps": stage.warmup_steps,
        "mixed_precision": "no" if stage.precision == "fp32" else stage.precision,
        "output_dir": "peer",
        "cache_dir": "cache",
        "seed": stage.seed,
    }
    sys.argv = [str(peer), *(f"--{key}={value}" for key, value in options.items())]
    torch.set_num_threads(params.compute.threads)
    runpy.run_path(str(peer), run_name="__main__")


def pillow_transforms() -> types.ModuleType:
    """A replacement for torchvision's transforms that the peer uses, which use Pillow as well."""
    import torch
    from PIL import Image

    size_of = {"BILINEAR": Image.Resampling.BILINEAR}

    def resize(size: int, interpolation: Any) -> Any:
        return lambda image: image.resize((size, size), interpolation)

    def to_tensor() -> Any:
        return lambda image: (
            torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        )

    def compose(steps: list[Any]) -> Any:
        def all_steps(image: Any) -> Any:
            for step in steps:
                image = step(image)
            return image

        return all_steps

    module, transforms = types.ModuleType("torchvision"), types.ModuleType("transforms")
    vars(transforms).update(
        Compose=compose,
        Resize=resize,
        CenterCrop=lambda size: lambda image: image,  # images are square
        ToTensor=to_tensor,
        Normalize=lambda mean, std: lambda tensor: (tensor - mean[0]) / std[0],
        InterpolationMode=types.SimpleNamespace(**size_of),
    )
    vars(module).update(transforms=transforms)
    return module


def versions() -> dict[str, str]:
    """Versions of the libraries that both use."""
    import diffusers
    import torch

    return {"torch": torch.__version__, "diffusers": diffusers.__version__}


if __name__ == "__main__":
    main()
