"""Compare training recipes: variants of train-controlnet with the same budget.

Usage   python -m benchmarks.recipe [--steps N] [--seeds N] [--jobs N] [--peer FOLDER]
Run it after `dvc repro train-segmenter`, with encode_latents.all_orientations. Each variant is
trained from each seed and generates the validation images, which are evaluated with the segmenter.
--jobs trainings run at a time, each on one core. --peer also evaluates a ControlNet that diffusers'
own script has trained (`benchmarks.train_speed --keep FOLDER` saves one). Results are kept in
scratch/recipe/ and not measured again. Prints a table and, as the last line, JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import stages  # noqa: F401  (sets the libraries' environment before they are imported)
from aerialdreams.params import Params, load_params

RESULTS = Path("scratch/recipe")
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "colours": {"conditioning": "colours"},
    "min-SNR 5": {"min_snr_gamma": 5.0},
    "EMA 0.99": {"ema_decay": 0.99},
    "augmented": {"augment": True},
    "half the learning rate": {"learning_rate": 0.00075},
    "twice the learning rate": {"learning_rate": 0.003},
}
# Values of train_controlnet that the variants change.
BASELINE: dict[str, Any] = {
    "conditioning": "one_hot",
    "min_snr_gamma": 0.0,
    "ema_decay": 0.0,
    "augment": False,
    "learning_rate": 0.0015,
    "latent_cache": True,
}
METRICS = ("miou", "judge_frechet_distance")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--single", nargs=2, metavar=("VARIANT", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.single:
        measure(arguments.single[0], int(arguments.single[1]), arguments.steps, arguments.peer)
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    seeds = range(arguments.seeds)
    todo = [(name, seed) for seed in seeds for name in VARIANTS]
    if arguments.peer:
        todo.append(("diffusers' script", 0))
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(lambda job: measure_in_subprocess(job[0], job[1], arguments), todo))
    names = dict.fromkeys(name for name, _ in todo)
    table = {
        name: [
            json.loads(result_path(name, seed, arguments.steps).read_text())
            for n, seed in todo
            if n == name
        ]
        for name in names
    }
    print(
        f"{arguments.steps} steps, mean and standard deviation over {arguments.seeds} seeds,"
        " validation patches"
    )
    for name, results in table.items():
        print(f"{name:18}", *(f"{key} {spread(results, key)}" for key in METRICS))
    plain = statistics.mean(r["miou"] for r in table["plain"])
    best = max(VARIANTS, key=lambda name: statistics.mean(r["miou"] for r in table[name]))
    best_miou = statistics.mean(r["miou"] for r in table[best])
    report = {"ours": best_miou, "peer": plain, "ratio": best_miou / plain, "units": "mIoU"}
    print(json.dumps(report | {"best": best, "steps": arguments.steps, "runs": table}))


def spread(results: list[dict[str, float]], key: str) -> str:
    """Mean and standard deviation over the seeds, as text."""
    values = [result[key] for result in results]
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {deviation:.4f}"


def result_path(name: str, seed: int, steps: int) -> Path:
    """File that keeps a result."""
    return RESULTS / f"{name.replace('/', 'by')}-{seed}-{steps}.json"


def measure_in_subprocess(name: str, seed: int, arguments: argparse.Namespace) -> None:
    """Measure one variant from one seed in a separate process, unless its result exists."""
    if result_path(name, seed, arguments.steps).exists():
        return
    command = [sys.executable, "-m", "benchmarks.recipe", "--single", name, str(seed)]
    command += ["--steps", str(arguments.steps)]
    command += ["--peer", str(arguments.peer)] if arguments.peer else []
    subprocess.run(command, check=True)


def measure(name: str, seed: int, steps: int, peer: Path | None) -> None:
    """Train a variant from a seed, or load the peer's ControlNet, and evaluate it."""
    import torch

    from aerialdreams.data.dataset import load_split
    from aerialdreams.data.land_cover import class_ids
    from aerialdreams.evaluation.feature_spaces import SegmenterFeatures
    from aerialdreams.evaluation.image_sets import ImageSet, distances
    from aerialdreams.evaluation.metrics import agreement, confusion
    from aerialdreams.generation.batch import generate_batch, requests_from_split
    from aerialdreams.models.conditioning import MaskConditioning
    from aerialdreams.models.controlnet import load_controlnet
    from aerialdreams.models.families import load_base
    from aerialdreams.pipeline.controlnet_training import (
        evaluation_weights,
        sampling_of,
        set_up,
    )
    from aerialdreams.util.torch_setup import configure_torch
    from stages.train_controlnet import train

    params = with_values(load_params(), VARIANTS.get(name, {}), seed, steps)
    device = configure_torch(1)
    real = load_split("validation", params.image_size)
    if name in VARIANTS:
        training = set_up(params)
        training.checkpoint.path = RESULTS / f"{name}-{seed}.pt"
        train(training, None)
        training.checkpoint.path.unlink()
        with evaluation_weights(training):
            images = generate_batch(
                training.base,
                training.model.controlnet,
                training.conditioning,
                requests_from_split(real),
                sampling_of(params),
                params.generate_validation.seed,
            )
    else:
        assert peer is not None
        images = generate_batch(
            load_base().to(device),
            load_controlnet(peer),
            MaskConditioning("colours", tuple(params.classes)),
            requests_from_split(real),
            sampling_of(params),
            params.generate_validation.seed,
        )
    with torch.no_grad():
        ids = class_ids(params.classes)
        segmenter = SegmenterFeatures(device, ids)
        names = [land_cover.name for land_cover in params.classes]
        result = agreement(confusion(real.masks, segmenter.predict(images)[0], ids), names)
        generated_set, real_set = (
            ImageSet(features={"judge": [segmenter(batch).double().numpy()]})
            for batch in (images, real.images)
        )
        result |= distances(generated_set, real_set)
    numbers = {key: value for key, value in result.items() if isinstance(value, float)}
    result_path(name, seed, steps).write_text(json.dumps(numbers | {"n": len(images)}))


def with_values(params: Params, changes: dict[str, Any], seed: int, steps: int) -> Params:
    """The project's params with a variant's changes."""
    values = params.model_dump()
    values["compute"]["threads"] = 1
    values["runtime"]["checkpoint_every"] = steps
    values["train_controlnet"] |= BASELINE | changes | {"seed": 100 + seed, "steps": steps}
    return Params.model_validate(values)


if __name__ == "__main__":
    main()
