"""train-controlnet killed again and again, and over many steps: same bytes, flat memory?

Usage   python -m benchmarks.training_endurance [--kills N] [--steps N] [--seed N]
On the random patches of tests/training/test_train_controlnet.py. One training is killed by
SIGKILL at N random moments and must end with the bytes of an undisturbed one. Another takes many
steps in one process: its memory after a tenth of them and at the end, and the time of the slowest
step that logged nothing, relative to the median. Prints both and a last line of JSON.
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
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aerialdreams-") as folder:
        prepared = Path(folder) / "prepared"
        prepared.mkdir()
        prepare(prepared)
        whole, killed, long = (new_place(prepared, Path(folder) / n) for n in "abc")
        survived = kill(whole, killed, words)
        numbers = endure(long, words.steps)
    print(f"{words.kills} SIGKILLs, {survived} of them with steps done: same bytes")
    print(
        f"{words.steps} steps: {numbers['megabytes_early']:.0f} MB after a tenth,"
        f" {numbers['megabytes_late']:.0f} MB at the end; slowest step"
        f" {numbers['slowest_over_median']:.2f} medians"
    )
    report = {"ours": words.kills, "peer": words.kills, "ratio": 1.0, "units": "kills survived"}
    print(json.dumps(report | numbers | {"steps": words.steps, "cores": os.cpu_count()}))


def kill(whole: Path, killed: Path, words: argparse.Namespace) -> int:
    """Kill a training at random moments; gives how many kills came after a first checkpoint."""
    for folder in (whole, killed):
        settle(folder, steps=120, **EVERYTHING)
    began = time.monotonic()
    undisturbed, draw, later = finish(whole), random.Random(words.seed), 0
    duration = time.monotonic() - began
    for number in range(words.kills):
        process = start(killed)
        time.sleep(draw.uniform(0.2, 1) * duration / 2)
        process.kill()
        process.communicate()
        kept = any((killed / "scratch").rglob("*.pt"))
        later += kept
        print(f"{number + 1:3} killed, {'a' if kept else 'no'} checkpoint there", flush=True)
    assert finish(killed) == undisturbed, "other bytes"
    assert dvc_md5(killed / "models/controlnet") == undisturbed
    return later


def endure(folder: Path, steps: int) -> dict[str, float]:
    """Memory and step times of a long training, tracked as ever."""
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

    def watched(self: Any, *positional: Any, **named: Any) -> Any:
        done = step(self, *positional, **named)
        times.append(time.perf_counter())
        memory.append(psutil.Process().memory_info().rss / 1e6)
        return done

    torch.optim.AdamW.step = watched  # type: ignore[method-assign]
    train_controlnet.main(params)
    every = params.runtime.checkpoint_every
    quiet = [
        after - before
        for number, (before, after) in enumerate(pairwise(times), 1)
        if number % LOG_EVERY and number % every
    ]
    return {
        "megabytes_early": memory[steps // 10],
        "megabytes_late": memory[-1],
        "slowest_over_median": max(quiet) / sorted(quiet)[len(quiet) // 2],
        "share_of_steps_over_two_medians": sum(
            one > 2 * sorted(quiet)[len(quiet) // 2] for one in quiet
        )
        / len(quiet),
    }


if __name__ == "__main__":
    main()
