"""generate-validation against a plain loop over diffusers' pipeline, an image at a time.

Usage   python -m benchmarks.generation_speed [--images N] [--rounds N]
Run where `dvc repro train-controlnet` has been. Same models, masks, captions, noise and steps, by
turns in one process; how far the images are apart is printed with the speeds.
"""

import argparse
import json
import os
import time
from collections.abc import Callable

import numpy as np

import stages  # noqa: F401  (sets the libraries' environment before they are imported)
from aerialdreams.data.dataset import load_evenly_spaced
from aerialdreams.generation.batch import generate_batch, requests_from_split
from aerialdreams.models.controlnet import load_controlnet
from aerialdreams.models.model_info import ModelInfo
from aerialdreams.models.stable_diffusion import load_stable_diffusion
from aerialdreams.params import load_params
from aerialdreams.paths import CONTROLNET
from aerialdreams.util.torch_setup import configure_torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    words = parser.parse_args()
    params = load_params()
    device, stage = (
        configure_torch(params.compute.threads, params.compute.deterministic),
        params.generate_validation,
    )
    base, controlnet = load_stable_diffusion().to(device), load_controlnet().to(device)
    info = ModelInfo.load(CONTROLNET)
    requests = requests_from_split(
        load_evenly_spaced("validation", words.images, params.image_size)
    )
    count = len(requests)

    def paint(batch: int) -> np.ndarray:
        parts = [requests[first : first + batch] for first in range(0, count, batch)]
        return np.concatenate(
            [
                generate_batch(base, controlnet, info.conditioning, part, info.sampling, stage.seed)
                for part in parts
            ]
        )

    ways: dict[str, Callable[[], np.ndarray]] = {
        "ours": lambda: paint(stage.batch_size),
        "peer": lambda: paint(1),
    }
    speed: dict[str, float] = {}
    images: dict[str, np.ndarray] = {}
    for _ in range(words.rounds):
        for name, work in ways.items():
            began = time.perf_counter()
            images[name] = work()
            speed[name] = max(speed.get(name, 0), count / (time.perf_counter() - began))
    apart = int(np.abs(images["ours"].astype(int) - images["peer"]).max())
    for name, value in speed.items():
        print(f"{name:5} {value:6.2f} images/s")
    print(f"images are {apart}/255 apart at most")
    report = speed | {"ratio": speed["ours"] / speed["peer"], "units": "images/s"}
    more = {
        "batch": stage.batch_size,
        "steps": info.sampling.steps,
        "images": count,
        "apart": apart,
    }
    print(json.dumps(report | more | {"cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
