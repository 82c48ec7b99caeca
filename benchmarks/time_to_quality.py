"""Seconds of training until images reach a quality, beside diffusers' train_controlnet.py.

Usage   python -m benchmarks.time_to_quality --peer PATH [--seconds N] [--rate R] [--steps N ...]
PATH is examples/controlnet/train_controlnet.py of diffusers' repository; see benchmarks.train_speed
for what it needs. Run it after `dvc repro train-segmenter`, on an idle machine. Both train a
ControlNet on the same base model and data, with params.yaml's batch size, one after the other. The
peer trains for --seconds (default 300) at --rate (default: params.yaml's learning rate) with whole
images, masks in colours and its own initialisation; its ControlNet is judged six times on the way.
Ours is trained anew for each of --steps, since its learning rate falls to 0 at the end. Only steps
are timed. The judge's mean IoU on images of the validation masks is given relative to real images.
Prints a table and, as the last line, JSON.
"""

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

import stages  # noqa: F401  (sets the libraries' environment before they are imported)
from aerialdreams.params import Params, load_params
from aerialdreams.util.batched import batched
from benchmarks.train_speed import LINKS, linked_project, run_part, run_peer, versions

JUDGE = "models/segmenter"
CHECKS = 6  # of the peer's ControlNet during its training
PROBE_STEPS = 12
BATCH = 16  # images that are generated at once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--steps", type=int, nargs="+", default=[50, 100, 200, 400, 1000])
    parser.add_argument("--single", choices=("ours", "peer", "judge"), help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.single:
        result = {
            "ours": train_ours,
            "peer": train_peer,
            "judge": lambda a: judge(a.model),
        }[arguments.single](arguments)
        print(json.dumps(result))
        return
    peer = measure_peer(arguments)
    ours = measure_ours(arguments)
    print(report(ours, peer, arguments))


def report(ours: list[Any], peer: list[Any], arguments: argparse.Namespace) -> str:
    """A line for each measurement, and a line of JSON."""
    mark, budget = peer[-1]["miou_of_real"], peer[-1]["seconds"]
    reached = next((r["seconds"] for r in ours if r["miou_of_real"] >= mark), None)
    lines = [
        f"{name:5} {r['steps']:5} steps {r['seconds']:7.1f} s  mIoU of real {r['miou_of_real']:.3f}"
        f"  Fréchet distance {r['frechet']:.2f}"
        for name, results in (("ours", ours), ("peer", peer))
        for r in results
    ]
    numbers = {
        "ours": reached,
        "peer": budget,
        "ratio": reached and reached / budget,
        "units": "s of training until the mIoU that the peer has at the end",
        "mark": mark,
        "rate": arguments.rate or load_params().train_controlnet.learning_rate,
        "runs": {"ours": ours, "peer": peer},
        "versions": versions(),
        "cores": os.cpu_count(),
    }
    return "\n".join([*lines, json.dumps(numbers)])


def measure_peer(arguments: argparse.Namespace) -> list[dict[str, float]]:
    """Train the peer for the given time and judge it on the way."""
    with linked_project(Path.cwd(), (*LINKS, JUDGE)) as root:
        probed = run(root, "peer", arguments, PROBE_STEPS)
        per_step = float(np.median(np.diff(probed["times"])[3:]))
        shutil.rmtree(root / "peer")
        steps = round(arguments.seconds / per_step)
        trained = run(root, "peer", arguments, steps)
        results = []
        for step in range(steps // CHECKS, steps + 1, steps // CHECKS):
            model = root / f"peer/checkpoint-{step}/controlnet"
            scores = run(root, "judge", arguments, step, model)
            seconds = trained["times"][step - 1] - trained["times"][0] + per_step
            results.append(scores | {"steps": step, "seconds": seconds})
    return results


def measure_ours(arguments: argparse.Namespace) -> list[dict[str, float]]:
    """Train ours for each number of steps and judge it."""
    results = []
    for steps in sorted(arguments.steps):
        with linked_project(Path.cwd(), (*LINKS, JUDGE)) as root:
            trained = run(root, "ours", arguments, steps)
            scores = run(root, "judge", arguments, steps, root / "models/controlnet")
            results.append(scores | trained | {"steps": steps})
    return results


def run(
    root: Path, single: str, arguments: argparse.Namespace, steps: int, model: Path = Path()
) -> Any:
    """Run one part of the benchmark in `root`, in a process of its own; return its result."""
    words = ["--single", single, "--steps", str(steps), "--model", str(model)]
    words += ["--peer", str(arguments.peer.resolve())]
    words += ["--rate", str(arguments.rate)] if arguments.rate else []
    return run_part("benchmarks.time_to_quality", words, root)


def train_ours(arguments: argparse.Namespace) -> dict[str, float]:
    """Train the project's ControlNet; the seconds of all steps."""
    from aerialdreams.models.controlnet import FINETUNED_UNET
    from aerialdreams.paths import CONTROLNET
    from aerialdreams.pipeline.controlnet_training import set_up
    from aerialdreams.util.torch_setup import configure_torch
    from stages import train_controlnet

    (steps,) = arguments.steps
    values = load_params().model_dump()
    values["train_controlnet"] |= {
        "steps": steps,
        "unlock_decoder_steps": steps,
        "warmup_steps": min(50, steps // 4),
        "validation_every": steps,
    }
    values["runtime"]["checkpoint_every"] = steps
    params = Params.model_validate(values)
    configure_torch(params.compute.threads, params.compute.deterministic)
    training = set_up(params)
    training.checkpoint.path = Path("checkpoint.pt")
    started = time.perf_counter()
    train_controlnet.train(training, None)
    seconds = time.perf_counter() - started
    training.model.controlnet.save_pretrained(CONTROLNET)
    training.model.unet.save_pretrained(CONTROLNET / FINETUNED_UNET)
    return {"seconds": seconds}


def train_peer(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Train with diffusers' script; the time at the end of each step."""
    import torch

    (steps,) = arguments.steps
    values = load_params().model_dump()
    if arguments.rate:
        values["train_controlnet"]["learning_rate"] = arguments.rate
    times: list[float] = []
    step = torch.optim.AdamW.step

    def timed_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = step(self, *args, **kwargs)
        times.append(time.perf_counter())
        return result

    torch.optim.AdamW.step = timed_step  # type: ignore[method-assign]
    run_peer(Params.model_validate(values), arguments.peer, steps, steps // CHECKS)
    return {"times": times}


def judge(model: Path, count: int = 0) -> dict[str, float]:
    """The judge's scores of images that a ControlNet generates for `count` (0: all) masks."""
    import torch

    from aerialdreams.data.dataset import load_evenly_spaced
    from aerialdreams.data.land_cover import class_ids
    from aerialdreams.evaluation.feature_spaces import SegmenterFeatures
    from aerialdreams.evaluation.metrics import agreement, confusion, frechet_distance
    from aerialdreams.generation.batch import generate_batch, requests_from_split
    from aerialdreams.models.conditioning import MaskConditioning
    from aerialdreams.models.controlnet import load_controlnet, with_finetuned_unet
    from aerialdreams.models.families import load_base
    from aerialdreams.pipeline.controlnet_training import sampling_of
    from aerialdreams.util.torch_setup import configure_torch

    params = load_params()
    device = configure_torch(params.compute.threads, params.compute.deterministic)
    real = load_evenly_spaced("validation", count, params.image_size)
    controlnet, base = load_controlnet(model), load_base()
    ids, names = class_ids(params.classes), [c.name for c in params.classes]
    channels = controlnet.config["conditioning_channels"]
    conditioning = MaskConditioning(
        "colours" if channels == 3 else "one_hot", tuple(params.classes)
    )
    base = with_finetuned_unet(base, model)
    base, controlnet = base.to(device), controlnet.to(device)
    sampling, seed = sampling_of(params), params.generate_validation.seed
    images = np.concatenate(
        [
            generate_batch(base, controlnet, conditioning, requests, sampling, seed)
            for requests in batched(requests_from_split(real), BATCH)
        ]
    )
    with torch.no_grad():
        segmenter = SegmenterFeatures(device, ids)
        of_generated, of_real = (
            agreement(confusion(real.masks, segmenter.predict(pictures)[0], ids), names)["miou"]
            for pictures in (images, real.images)
        )
        features = [segmenter(pictures).double().numpy() for pictures in (images, real.images)]
    return {
        "miou": of_generated,
        "miou_of_real": of_generated / of_real,
        "frechet": frechet_distance(features[0], features[1]),
    }


if __name__ == "__main__":
    main()
