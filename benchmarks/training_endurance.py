"""Check train-controlnet under repeated kills and over many steps: same bytes, constant memory.

Usage   python -m benchmarks.training_endurance [--kills N] [--steps N] [--seed N]
Uses the random patches of tests/training/test_train_controlnet.py. One training is killed with
SIGKILL at N random moments and must end with the bytes of an undisturbed one. Another runs many
steps in one process; its memory after a tenth of them and at the end is measured, and the time of
the slowest step without logging relative to the median. Prints both and, as the last line, JSON.
"""

import argparse
import json
import os
import random
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import torch

from aerialdreams.util.files import dvc_md5
from stages import train_controlnet
from tests.training.test_train_controlnet import (
    EVERYTHING,
    finish,
    new_place,
    prepare,
    settle,
    start,
)

LOG_EVERY = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aerialdreams-") as folder:
        prepared = Path(folder) / "prepared"
        prepared.mkdir()
        prepare(prepared)
        undisturbed, killed, long = (new_place(prepared, Path(folder) / n) for n in "abc")
        survived = kill(undisturbed, killed, arguments)
        numbers = endure(long, arguments.steps)
    print(f"{arguments.kills} SIGKILLs, {survived} of them after the first checkpoint: same bytes")
    print(
        f"{arguments.steps} steps: {numbers['megabytes_early']:.0f} MB after a tenth,"
        f" {numbers['megabytes_late']:.0f} MB at the end; slowest step"
        f" {numbers['slowest_over_median']:.2f} medians"
    )
    report = {
        "ours": arguments.kills,
        "peer": arguments.kills,
        "ratio": 1.0,
        "units": "kills survived",
    }
    print(json.dumps(report | numbers | {"steps": arguments.steps, "cores": os.cpu_count()}))


def kill(undisturbed: Path, killed: Path, arguments: argparse.Namespace) -> int:
    """Kill a training at random moments; return how many kills came after the first checkpoint."""
    for folder in (undisturbed, killed):
        settle(folder, steps=120, **EVERYTHING)
    started = time.monotonic()
    expected, rng, later = finish(undisturbed), random.Random(arguments.seed), 0
    duration = time.monotonic() - started
    for number in range(arguments.kills):
        process = start(killed)
        time.sleep(rng.uniform(0.2, 1) * duration / 2)
        process.kill()
        process.communicate()
        has_checkpoint = any((killed / "scratch").rglob("*.pt"))
        later += has_checkpoint
        print(
            f"{number + 1:3} killed, {'a' if has_checkpoint else 'no'} checkpoint exists",
            flush=True,
        )
    assert finish(killed) == expected, "the bytes differ"
    assert dvc_md5(killed / "models/controlnet") == expected
    return later


def endure(folder: Path, steps: int) -> dict[str, float]:
    """Memory and step times of a long training with MLflow."""
    os.chdir(folder)
    params = settle(
        folder,
        steps=steps,
        checkpoint_every=200,
        validation_every=500,
        tracking={"log_every": LOG_EVERY, "images_every": 1000},
    )
    times: list[float] = []
    memory: list[float] = []
    step = torch.optim.AdamW.step

    def timed_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = step(self, *args, **kwargs)
        times.append(time.perf_counter())
        memory.append(psutil.Process().memory_info().rss / 1e6)
        return result

    torch.optim.AdamW.step = timed_step  # type: ignore[method-assign]
    train_controlnet.main(params)
    checkpoint_every = params.runtime.checkpoint_every
    quiet = [
        after - before
        for number, (before, after) in enumerate(pairwise(times), 1)
        if number % LOG_EVERY and number % checkpoint_every
    ]
    return {
        "megabytes_early": memory[steps // 10],
        "megabytes_late": memory[-1],
        "slowest_over_median": max(quiet) / sorted(quiet)[len(quiet) // 2],
        "share_of_steps_over_two_medians": sum(
            seconds > 2 * sorted(quiet)[len(quiet) // 2] for seconds in quiet
        )
        / len(quiet),
    }


if __name__ == "__main__":
    main()
