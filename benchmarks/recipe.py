"""Which recipe learns more: variants of train-controlnet at equal budget, scored by the judge.

Usage   python -m benchmarks.recipe [--steps N] [--seeds N] [--jobs N] [--peer FOLDER]
Run where `dvc repro train-segmenter` has been, with encode_latents.all_orientations. Each variant
is trained from each of the seeds, and paints the validation patches; the judge reads them. --jobs
trainings run at a time, each on one core. --peer scores a ControlNet of diffusers' own script too
(`benchmarks.train_speed --keep FOLDER` leaves one). What has been measured is kept in
scratch/recipe/ and not measured again. Prints a table and a last line of JSON.
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

KEPT = Path("scratch/recipe")
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "colours": {"conditioning": "colours"},
    "min-SNR 5": {"min_snr_gamma": 5.0},
    "EMA 0.99": {"ema_decay": 0.99},
    "augmented": {"augment": True},
    "half the learning rate": {"learning_rate": 0.00075},
    "twice the learning rate": {"learning_rate": 0.003},
}
# What the variants are variants of.
PLAIN: dict[str, Any] = {
    "conditioning": "one_hot",
    "min_snr_gamma": 0.0,
    "ema_decay": 0.0,
    "augment": False,
    "learning_rate": 0.0015,
    "latent_cache": True,
}
MEASURES = ("miou", "judge_frechet_distance")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("VARIANT", "SEED"), help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.one:
        measure(words.one[0], int(words.one[1]), words.steps, words.peer)
        return
    KEPT.mkdir(parents=True, exist_ok=True)
    seeds = range(words.seeds)
    todo = [(name, seed) for seed in seeds for name in VARIANTS]
    if words.peer:
        todo.append(("diffusers' script", 0))
    with ThreadPoolExecutor(words.jobs) as pool:
        list(pool.map(lambda job: start(job[0], job[1], words), todo))
    names = dict.fromkeys(name for name, _ in todo)
    table = {
        name: [
            json.loads(place(name, seed, words.steps).read_text()) for n, seed in todo if n == name
        ]
        for name in names
    }
    print(f"{words.steps} steps, mean and deviation over {words.seeds} seeds, validation patches")
    for name, results in table.items():
        print(f"{name:18}", *(f"{key} {spread(results, key)}" for key in MEASURES))
    plain = statistics.mean(r["miou"] for r in table["plain"])
    best = max(VARIANTS, key=lambda name: statistics.mean(r["miou"] for r in table[name]))
    best_miou = statistics.mean(r["miou"] for r in table[best])
    report = {"ours": best_miou, "peer": plain, "ratio": best_miou / plain, "units": "mIoU"}
    print(json.dumps(report | {"best": best, "steps": words.steps, "runs": table}))


def spread(results: list[dict[str, float]], key: str) -> str:
    """Mean and deviation over the seeds."""
    values = [result[key] for result in results]
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {deviation:.4f}"


def place(name: str, seed: int, steps: int) -> Path:
    """Where a measurement is kept."""
    return KEPT / f"{name.replace('/', 'by')}-{seed}-{steps}.json"


def start(name: str, seed: int, words: argparse.Namespace) -> None:
    """One measurement, in a process of its own."""
    if place(name, seed, words.steps).exists():
        return
    command = [sys.executable, "-m", "benchmarks.recipe", "--one", name, str(seed)]
    command += ["--steps", str(words.steps)]
    command += ["--peer", str(words.peer)] if words.peer else []
    subprocess.run(command, check=True)


def measure(name: str, seed: int, steps: int, peer: Path | None) -> None:
    """Train a variant from a seed, or take the peer's ControlNet, and score it."""
    import torch

    from aerialdreams.data.dataset import load_split
    from aerialdreams.evaluation.feature_spaces import Judge
    from aerialdreams.evaluation.metrics import agreement, confusion
    from aerialdreams.generation.batch import generate_batch, requests_from_split
    from aerialdreams.models.conditioning import MaskConditioning
    from aerialdreams.models.controlnet import load_controlnet
    from aerialdreams.models.stable_diffusion import load_stable_diffusion
    from aerialdreams.pipeline.controlnet_training import (
        evaluation_weights,
        sampling_of,
        set_up,
    )
    from aerialdreams.util.torch_setup import configure_torch
    from stages.evaluate_FID import Seen, distances
    from stages.train_controlnet import train

    params = with_values(load_params(), VARIANTS.get(name, {}), seed, steps)
    device = configure_torch(1)
    real = load_split("validation", params.image_size)
    if name in VARIANTS:
        training = set_up(params)
        training.checkpoint.path = KEPT / f"{name}-{seed}.pt"
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
            load_stable_diffusion().to(device),
            load_controlnet(peer),
            MaskConditioning("colours", tuple(params.classes)),
            requests_from_split(real),
            sampling_of(params),
            params.generate_validation.seed,
        )
    with torch.no_grad():
        judge = Judge(device)
        names = [land_cover.name for land_cover in params.classes]
        result = agreement(confusion(real.masks, judge.read(images)), names)
        made, ground = (
            Seen(features={"judge": [judge(one).double().numpy()]}) for one in (images, real.images)
        )
        result |= distances(made, ground)
    numbers = {key: value for key, value in result.items() if isinstance(value, float)}
    place(name, seed, steps).write_text(json.dumps(numbers | {"n": len(images)}))


def with_values(params: Params, changes: dict[str, Any], seed: int, steps: int) -> Params:
    """The project's params with a variant's values."""
    values = params.model_dump()
    values["compute"]["threads"] = 1
    values["runtime"]["checkpoint_every"] = steps
    values["train_controlnet"] |= PLAIN | changes | {"seed": 100 + seed, "steps": steps}
    return Params.model_validate(values)


if __name__ == "__main__":
    main()
