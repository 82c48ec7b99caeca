"""Measure the cost of portable arithmetic, which gives the same bytes on all x86-64 CPUs with AVX2.

Usage   python -m benchmarks.portable_arithmetic [--rounds N] [--steps N]
Runs training steps of the default run's networks on random data, alternately in separate processes:
with compute.portable, and with the instructions that the libraries choose. The time of a step is
the median in a process; the result is the minimum over the rounds. Prints a table and, as the last
line, JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

# Steps of each training in the default run, the weights of the total.
WEIGHTS = {"unet": 450, "segmenter": 800, "controlnet": 450}
WARM_UP = 3  # steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--child", choices=["portable", "own"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.child, args.steps)))
        return
    best: dict[str, dict[str, float]] = {"portable": {}, "own": {}}
    for _ in range(args.rounds):
        for mode, seconds in best.items():
            for name, value in run_child(mode, args.steps).items():
                seconds[name] = min(value, seconds.get(name, value))
    print(f"{'training':12} {'portable':>9} {'own':>9} {'ratio':>6}   seconds per step")
    for name, ours in best["portable"].items():
        own = best["own"][name]
        print(f"{name:12} {ours:9.3f} {own:9.3f} {ours / own:6.2f}")
    totals = {
        mode: sum(seconds[name] * weight for name, weight in WEIGHTS.items())
        for mode, seconds in best.items()
    }
    report = {
        "ours": totals["portable"],
        "peer": totals["own"],
        "ratio": totals["portable"] / totals["own"],
        "units": "seconds of the default run's trainings",
        "steps": best,
        "cores": os.cpu_count(),
    }
    print(json.dumps(report))


def run_child(mode: str, steps: int) -> dict[str, float]:
    """Median seconds per step of each training, measured in a separate process."""
    command = [sys.executable, "-m", "benchmarks.portable_arithmetic"]
    command += ["--child", mode, "--steps", str(steps)]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return seconds


def measure(mode: str, steps: int) -> dict[str, float]:
    """Median seconds per step of each training, measured in this process."""
    from aerialdreams.params import load_params
    from aerialdreams.pipeline import portable_arithmetic

    if mode == "portable":
        portable_arithmetic.set_instruction_caps()
    from aerialdreams.util.torch_setup import configure_torch

    params = load_params()
    configure_torch(params.compute.threads, params.compute.deterministic)
    if mode == "portable":
        portable_arithmetic.use_portable_kernels()
    return {name: median(step, steps) for name, step in make_steps(params).items()}


def median(step: Callable[[], None], steps: int) -> float:
    """Median seconds of a step."""
    times = []
    for number in range(WARM_UP + steps):
        start = time.perf_counter()
        step()
        if number >= WARM_UP:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def make_steps(params: Any) -> dict[str, Callable[[], None]]:
    """One step of each training on random data, by name."""
    import torch

    from aerialdreams.models.segmenter import Segmenter
    from tests.tiny import conditioning_of, new_model, tiny_stable_diffusion

    size, tiny = params.image_size, params.base_model.tiny
    base = tiny_stable_diffusion(params, ["Aerial view of France. water, building."], size, 1)
    model = new_model(params, base)
    batch = tiny.unet.batch_size
    shape = (batch, *base.latent_shape(size))
    text = torch.randn(batch, 77, tiny.text.width)
    timesteps = torch.arange(batch) * 100
    masks = torch.randint(1, 20, (batch, size, size), dtype=torch.uint8)
    conditioning = conditioning_of(params)(masks)
    segmenter = Segmenter(params.train_segmenter.channels, len(params.classes))

    def step(module: torch.nn.Module, forward: Callable[[], torch.Tensor]) -> Callable[[], None]:
        optimizer = torch.optim.AdamW(module.parameters(), fused=True)

        def run() -> None:
            optimizer.zero_grad()
            forward().square().mean().backward()
            optimizer.step()

        return run

    images = torch.randn(params.train_segmenter.batch_size, 3, size, size)
    latents = torch.randn(shape)
    return {
        "unet": step(base.unet, lambda: base.unet(latents, timesteps, text).sample),
        "segmenter": step(segmenter, lambda: segmenter(images)),
        "controlnet": step(model.controlnet, lambda: model(latents, timesteps, text, conditioning)),
    }


if __name__ == "__main__":
    main()
