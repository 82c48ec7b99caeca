"""Does adapting the base model to a dataset help its ControlNet? Recipes with and without it.

Usage   python -m benchmarks.adaptation [--adaptation N] [--steps N] [--seeds N] [--jobs N]
            [--recipes NAME ...]
Run it after `dvc repro train-segmenter encode-latents`, with adapt_base.steps 0, in a project whose
base model was made on other data: for example settings `dubai`, with base_model.source `folder` and
the tiny base of a default run. Every recipe is trained from each seed on crops, adapt-base for
--adaptation steps (default 100) and train-controlnet for --steps (default 200), and generates
--images validation images (default 64), which the segmenter judges. `longer` spends the steps of
the adaptation on the ControlNet instead; `decoder` trains the autoencoder's decoder for --decoder
steps (default 200). Latents and embeddings are the same in all, because the adaptation leaves the
encoders alone. --jobs trainings run at a time, each on one core.
Results are kept in scratch/adaptation/ and not measured again. Prints a table and, as the last
line, JSON, whose `ours` and `peer` are the second and the first of the recipes.
"""

import argparse
import json
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

import stages  # noqa: F401  (sets the libraries' environment before they are imported)
from aerialdreams.params import Params, load_params
from benchmarks.time_to_quality import judge
from benchmarks.train_speed import linked_project, run_part, versions

RESULTS = Path("scratch/adaptation")
LINKS = (
    *("data/dataset", "data/latents", "models/base", "models/segmenter"),
    "metrics/class_frequencies.csv",
)
# By recipe: the rank of the adaptation, if there is one, and whether the ControlNet takes the
# adaptation's steps, too.
RECIPES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "adapted": {"lora_rank": 0},
    "as it is, longer": {"longer": True},
    "adapted, rank 16": {"lora_rank": 16},
    "decoder": {"noise": 0.6},
    "decoder, without noise": {"noise": 0.0},
    "adapted, and decoder": {"lora_rank": 0, "noise": 0.6},
    "adapted, and decoder, without noise": {"lora_rank": 0, "noise": 0.0},
}
RATES = {0: 0.001, 16: 0.003}  # of the adaptation, by rank
METRICS = ("miou_of_real", "frechet", "reconstructed_of_real", "psnr", "cpu_seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adaptation", type=int, default=100)
    parser.add_argument("--decoder", type=int, default=200)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--recipe", choices=RECIPES, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.recipe:
        print(json.dumps(measure(arguments)))
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    todo = [(recipe, seed) for recipe in arguments.recipes for seed in range(arguments.seeds)]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        done = list(pool.map(lambda job: result_of(job[0], job[1], arguments), todo))
    runs: dict[str, list[dict[str, float]]] = {recipe: [] for recipe in arguments.recipes}
    for (recipe, _), result in zip(todo, done, strict=True):
        runs[recipe].append(result)
    print(report(runs, arguments))


def report(runs: dict[str, list[dict[str, float]]], arguments: argparse.Namespace) -> str:
    """A line for each recipe, and a line of JSON."""
    titles = ("mIoU of real", "Fréchet distance", "reconstructed", "PSNR, dB", "CPU seconds")
    lines = [" ".join([f"{'base':34}", *(f"{title:18}" for title in titles)]).rstrip()]
    for recipe, results in runs.items():
        cells = []
        for name in METRICS:
            values = [result[name] for result in results]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):8.3f} ± {spread:6.3f}")
        lines.append(f"{recipe:34} {'  '.join(cells)}")
    means = [statistics.mean(result["miou_of_real"] for result in runs[name]) for name in runs]
    peer, ours = means[:2]
    numbers = {
        "ours": ours,
        "peer": peer,
        "ratio": ours / peer,
        "units": "mIoU of real validation images",
        "dataset": load_params().dataset_spec.name,
        "adaptation_steps": arguments.adaptation,
        "decoder_steps": arguments.decoder,
        "steps": arguments.steps,
        "images": arguments.images,
        "runs": runs,
        "versions": versions(),
        "cores": os.cpu_count(),
    }
    return "\n".join([*lines, json.dumps(numbers)])


def result_of(recipe: str, seed: int, arguments: argparse.Namespace) -> dict[str, float]:
    """A recipe's result from a seed, measured in a process of its own unless it is kept."""
    steps = f"{arguments.adaptation}-{arguments.decoder}-{arguments.steps}"
    kept = RESULTS / f"{recipe}-{seed}-{steps}.json"
    if not kept.exists():
        words = ["--recipe", recipe, "--seed", str(seed), "--steps", str(arguments.steps)]
        words += ["--adaptation", str(arguments.adaptation), "--images", str(arguments.images)]
        words += ["--decoder", str(arguments.decoder)]
        with linked_project(Path.cwd(), LINKS) as folder:
            params = params_of(recipe, seed, arguments).model_dump(mode="json")
            (folder / "params.yaml").write_text(yaml.safe_dump(params))
            result = run_part("benchmarks.adaptation", words, folder)
        kept.write_text(json.dumps(result))
    result = json.loads(kept.read_text())
    return dict(result)


def params_of(recipe: str, seed: int, arguments: argparse.Namespace) -> Params:
    """The project's params with a recipe's values."""
    values, changes = load_params().model_dump(), RECIPES[recipe]
    steps = arguments.steps + (arguments.adaptation if changes.get("longer") else 0)
    values["compute"]["threads"] = 1
    values["runtime"] |= {"checkpoint_every": steps, "processes": 1, "loaders": 0}
    values["adapt_base"] |= {
        "seed": 200 + seed,
        "steps": arguments.adaptation if "lora_rank" in changes else 0,
        "lora_rank": changes.get("lora_rank", 0),
        "learning_rate": RATES[changes.get("lora_rank", 0)],
        "crop": values["train_controlnet"]["crop"],
        "autoencoder": values["adapt_base"]["autoencoder"]
        | {
            "steps": arguments.decoder if "noise" in changes else 0,
            "noise": changes.get("noise", 0.0),
            "crop": values["train_controlnet"]["crop"],
        },
    }
    values["train_controlnet"] |= {
        "seed": 100 + seed,
        "steps": steps,
        "unlock_decoder_steps": 0,  # the UNet is frozen, as Stable Diffusion's is
        "validation_every": steps,
    }
    return Params.model_validate(values)


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Train by the params of this folder, and judge the result; CPU seconds are of the steps."""
    from accelerate.state import AcceleratorState

    from aerialdreams.paths import ADAPTED_BASE, BASE, CONTROLNET
    from aerialdreams.pipeline import base_adaptation, controlnet_training
    from aerialdreams.util.torch_setup import configure_torch
    from stages import adapt_base, train_controlnet

    params = load_params()
    configure_torch(params.compute.threads, params.compute.deterministic)
    seconds = 0.0
    stage, learnt = params.adapt_base, {}
    if stage.steps or stage.autoencoder.steps:
        place = base_adaptation.Workplace(params)
        began = time.process_time()
        if stage.autoencoder.steps:
            decoder = base_adaptation.AutoencoderAdaptation(place)
            learnt["vae"] = adapt_base.learn(decoder, Path("vae.pt"), None)
        if stage.steps:
            unet = base_adaptation.UNetAdaptation(place)
            learnt["unet"] = adapt_base.learn(unet, Path("unet.pt"), None)
        seconds += time.process_time() - began
        adapt_base.save(params, place.base, learnt)
        AcceleratorState._reset_state(reset_partial_state=True)  # one a process, in the pipeline
    else:
        ADAPTED_BASE.symlink_to(BASE.resolve())
    training = controlnet_training.set_up(params)
    training.checkpoint.path = Path("controlnet.pt")
    began = time.process_time()
    train_controlnet.train(training, None)
    seconds += time.process_time() - began
    training.model.controlnet.save_pretrained(CONTROLNET)
    scores = judge(CONTROLNET, arguments.images)
    return (
        scores
        | reconstructed(arguments.images)
        | {
            "cpu_seconds": seconds,
            "loss": training.losses.means()[-1][1],
            "steps": params.train_controlnet.steps,
            "adaptation_steps": params.adapt_base.steps,
        }
    )


def reconstructed(count: int) -> dict[str, float]:
    """What the adapted autoencoder makes of `count` validation images.

    Returns:
        `reconstructed_of_real`, the judge's mIoU by that of real images; `psnr`, decibels.
    """
    import numpy as np
    import torch

    from aerialdreams.data.dataset import load_evenly_spaced
    from aerialdreams.data.land_cover import class_ids
    from aerialdreams.evaluation.feature_spaces import SegmenterFeatures
    from aerialdreams.evaluation.metrics import agreement, confusion
    from aerialdreams.generation.batch import reconstruct
    from aerialdreams.models.latent_diffusion import load_vae

    params = load_params()
    real = load_evenly_spaced("validation", count, params.image_size)
    ids, names = class_ids(params.classes), [c.name for c in params.classes]
    segmenter = SegmenterFeatures(torch.device("cpu"), ids)
    images = reconstruct(load_vae(), real.images)
    with torch.no_grad():
        of_images, of_real = (
            agreement(confusion(real.masks, segmenter.predict(pictures)[0], ids), names)["miou"]
            for pictures in (images, real.images)
        )
    error = np.square(images.astype(float) - real.images).mean()
    psnr = 10 * np.log10(255**2 / error)
    return {"reconstructed_of_real": of_images / of_real, "psnr": float(psnr)}


if __name__ == "__main__":
    main()
