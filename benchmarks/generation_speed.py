"""Compare generate-validation's batches with generating one image at a time.

Usage   python -m benchmarks.generation_speed [--images N] [--rounds N]
Run it after `dvc repro train-controlnet`. Both use the same models, masks, captions, noise and
steps, alternately in one process. Prints the speeds and the largest difference between the images.
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
from aerialdreams.models.families import load_base
from aerialdreams.models.model_info import ModelInfo
from aerialdreams.params import load_params
from aerialdreams.paths import CONTROLNET
from aerialdreams.util.torch_setup import configure_torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    params = load_params()
    device, stage = (
        configure_torch(params.compute.threads, params.compute.deterministic),
        params.generate_validation,
    )
    base, controlnet = load_base().to(device), load_controlnet().to(device)
    info = ModelInfo.load(CONTROLNET)
    requests = requests_from_split(
        load_evenly_spaced("validation", arguments.images, params.image_size)
    )
    count = len(requests)

    def generate(batch_size: int) -> np.ndarray:
        parts = [requests[i : i + batch_size] for i in range(0, count, batch_size)]
        return np.concatenate(
            [
                generate_batch(base, controlnet, info.conditioning, part, info.sampling, stage.seed)
                for part in parts
            ]
        )

    variants: dict[str, Callable[[], np.ndarray]] = {
        "ours": lambda: generate(stage.batch_size),
        "peer": lambda: generate(1),
    }
    speed: dict[str, float] = {}
    images: dict[str, np.ndarray] = {}
    for _ in range(arguments.rounds):
        for name, run in variants.items():
            start = time.perf_counter()
            images[name] = run()
            speed[name] = max(speed.get(name, 0), count / (time.perf_counter() - start))
    difference = int(np.abs(images["ours"].astype(int) - images["peer"]).max())
    for name, value in speed.items():
        print(f"{name:5} {value:6.2f} images/s")
    print(f"largest difference between pixels: {difference} of 255")
    report = speed | {"ratio": speed["ours"] / speed["peer"], "units": "images/s"}
    details = {
        "batch": stage.batch_size,
        "steps": info.sampling.steps,
        "images": count,
        "apart": difference,
    }
    print(json.dumps(report | details | {"cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
