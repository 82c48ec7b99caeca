"""train-controlnet against diffusers' own train_controlnet.py: samples per second, peak memory.

Usage   python -m benchmarks.train_speed --peer PATH [--steps N] [--rounds N] [--keep FOLDER]
                                         [--sd21 PRECISION [--batch N]]
PATH is examples/controlnet/train_controlnet.py of diffusers' repository, which needs tensorboard
(and torchvision's transforms, which stand in here by Pillow where it is not installed). Run where
`dvc repro encode-latents` has been: model, data, batch and precision are those of params.yaml, for
both. The condition is the mask's colours for both, for the peer knows no other. Each runs in a
process of its own, by turns; a step is from one AdamW.step to the next, its time their median;
memory is the most that the process held at the last step, or of a GPU's what torch held. On a GPU
it also says which share of ten steps none of its kernels ran. --keep keeps the peer's ControlNet.
--sd21 bf16 trains networks of Stable Diffusion 2.1's sizes, of random weights, at 512 pixels.
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
from pathlib import Path
from typing import Any

import numpy as np

import stages  # noqa: F401  (sets the libraries' environment before they are imported)
from aerialdreams.params import Params, load_params

LINKS = ("data", "models/base", "params.yaml")
PROFILED = range(30, 40)  # steps in which a GPU's kernels are timed; those before are measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--sd21", choices=("fp32", "fp16", "bf16"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--probe", choices=("ours", "peer"), help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.steps < 5:
        parser.error("--steps: 5 at least, for the first ones warm up")
    if words.probe:
        probe(words.probe, words.peer, words.steps)
        return
    with tempfile.TemporaryDirectory(prefix="aerialdreams-") as folder:
        root = Path.cwd()
        if words.sd21:
            from benchmarks.sd21_sizes import make_place

            root = Path(folder)
            make_place(root, words.batch, words.sd21)
        found: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
        for _ in range(words.rounds):
            for who, results in found.items():
                results.append(run(who, words, root))
        print(
            report(
                found, load_params(root / "params.yaml").train_controlnet.batch_size, words.steps
            )
        )


def report(found: dict[str, list[dict[str, float]]], batch: int, steps: int) -> str:
    """A line for each, and a line of JSON."""
    speed = {who: batch / min(r["seconds"] for r in rs) for who, rs in found.items()}
    memory = {who: min(r["megabytes"] for r in rs) for who, rs in found.items()}
    lines = [f"{who:5} {speed[who]:7.2f} samples/s {memory[who]:8.0f} MB at most" for who in found]
    numbers = {
        "ours": speed["ours"],
        "peer": speed["peer"],
        "ratio": speed["ours"] / speed["peer"],
        "units": "samples/s",
        "memory_megabytes": memory,
        "memory_ratio": memory["ours"] / memory["peer"],
        "steps": steps,
        "slowest_over_median": {w: [r["slowest"] for r in rs] for w, rs in found.items()},
        "share_without_kernels": {w: [r["idle"] for r in rs] for w, rs in found.items()},
        "versions": versions(),
        "cores": os.cpu_count(),
    }
    return "\n".join([*lines, json.dumps(numbers)])


def run(who: str, words: argparse.Namespace, root: Path) -> dict[str, float]:
    """One training in a folder of its own, on the data of another; seconds a step, megabytes."""
    with tempfile.TemporaryDirectory(prefix="aerialdreams-") as folder:
        for name in LINKS:
            link = Path(folder) / name
            link.parent.mkdir(exist_ok=True)
            link.symlink_to((root / name).resolve())
        command = [sys.executable, "-m", "benchmarks.train_speed", "--probe", who]
        command += ["--peer", str(words.peer.resolve()), "--steps", str(words.steps)]
        paths = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONPATH": paths}
        ended = subprocess.run(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
        )
        if ended.returncode:
            sys.exit(f"{who} failed: see above")
        if who == "peer" and words.keep:
            (Path(folder) / "peer").rename(words.keep)
    result: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return result


def probe(who: str, peer: Path, steps: int) -> None:
    """Train in this process, watched, and print a line of JSON."""
    import torch

    params, times, peaks = load_params(), [], []
    torch.set_num_threads(params.compute.threads)
    step, cuda = torch.optim.AdamW.step, torch.cuda.is_available()
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])

    def watched(self: Any, *words: Any, **more: Any) -> Any:
        done = step(self, *words, **more)
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter())
        held = torch.cuda.max_memory_allocated() if cuda else None
        peaks.append((held or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1000) / 1e6)
        if cuda and len(times) in (PROFILED.start, PROFILED.stop):
            (profiler.start if len(times) == PROFILED.start else profiler.stop)()
        return done

    torch.optim.AdamW.step = watched  # type: ignore[method-assign]
    (run_ours if who == "ours" else run_peer)(params, peer, steps)
    intervals = np.diff(times)[3 : PROFILED.start - 1]  # the first ones warm up
    median = statistics.median(intervals)
    idle = None
    if cuda and len(times) >= PROFILED.stop:
        busy = sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6
        idle = 1 - busy / (times[PROFILED.stop - 1] - times[PROFILED.start - 1])
    report = {"seconds": median, "megabytes": peaks[-1], "slowest": max(intervals) / median}
    print(json.dumps(report | {"idle": idle}))


def run_ours(params: Params, peer: Path, steps: int) -> None:
    """The stage as it is, without the pictures that the peer does not make."""
    from stages import train_controlnet

    values = params.model_dump()
    values["train_controlnet"] |= {
        "conditioning": "colours",
        "steps": steps,
        "validation_every": steps,
    }
    values["tracking"] |= {"images_every": steps, "images": 1}
    train_controlnet.main(Params.model_validate(values))


def run_peer(params: Params, peer: Path, steps: int) -> None:
    """diffusers' script, with the ControlNet that ours begins with."""
    import accelerate  # noqa: F401  (these look for torchvision, and are not to find a stand-in)
    import datasets  # noqa: F401
    import torch
    import transformers  # noqa: F401
    from diffusers import StableDiffusionControlNetPipeline, UNet2DConditionModel  # noqa: F401
    from transformers import CLIPTextModel  # noqa: F401

    from aerialdreams.models.conditioning import MaskConditioning
    from aerialdreams.models.controlnet import new_controlnet

    if "torchvision" not in sys.modules:
        sys.modules["torchvision"] = transforms_by_pillow()
    stage = params.train_controlnet
    unet = UNet2DConditionModel.from_pretrained("models/base/unet")
    conditioning = MaskConditioning("colours", tuple(params.classes))
    start = new_controlnet(unet, conditioning, stage.embedding_channels, stage.seed)
    start.save_pretrained("start")
    words = {
        "pretrained_model_name_or_path": "models/base",
        "controlnet_model_name_or_path": "start",
        "train_data_dir": "data/dataset",
        "conditioning_image_column": "mask",
        "caption_column": "caption",
        "proportion_empty_prompts": stage.caption_dropout,
        "resolution": params.image_size,
        "train_batch_size": stage.batch_size,
        "max_train_steps": steps,
        "checkpointing_steps": 10 * steps,
        "learning_rate": stage.learning_rate,
        "lr_scheduler": stage.schedule,
        "lr_warmup_steps": stage.warmup_steps,
        "mixed_precision": "no" if stage.precision == "fp32" else stage.precision,
        "output_dir": "peer",
        "cache_dir": "cache",
        "seed": stage.seed,
    }
    sys.argv = [str(peer), *(f"--{key}={value}" for key, value in words.items())]
    torch.set_num_threads(params.compute.threads)
    runpy.run_path(str(peer), run_name="__main__")


def transforms_by_pillow() -> types.ModuleType:
    """The four of torchvision's transforms that the peer asks for; they use Pillow as well."""
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
        CenterCrop=lambda size: lambda image: image,  # square already
        ToTensor=to_tensor,
        Normalize=lambda mean, std: lambda tensor: (tensor - mean[0]) / std[0],
        InterpolationMode=types.SimpleNamespace(**size_of),
    )
    vars(module).update(transforms=transforms)
    return module


def versions() -> dict[str, str]:
    """Of what both train with."""
    import diffusers
    import torch

    return {"torch": torch.__version__, "diffusers": diffusers.__version__}


if __name__ == "__main__":
    main()
