"""Run the pipeline on other CPUs and check that it ends with the same bytes.

Usage   python -m benchmarks.other_cpus [--cpus NAME ...] [--own]
Every stage runs at a very small size on this machine's CPU and on CPUs that qemu-user emulates
(Debian's package qemu-user; `qemu-x86_64 -cpu help` lists them; some minutes each). Outputs are
compared by hash. --own runs with compute.portable: false, so that the libraries use all
instructions of each CPU. Prints the outputs that differ and, as the last line, JSON.
"""

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
from multiprocessing import set_executable
from pathlib import Path

import stages  # noqa: F401  (sets the environment before torch is imported)
from aerialdreams.params import load_params
from aerialdreams.pipeline import portable_arithmetic
from aerialdreams.util.files import dvc_md5
from tests.projects import clone, set_params

STAGES = {  # the output of each stage that is compared
    "raw_patches": "data/raw",
    "patch_index": "data/patches.parquet",
    "tiff_to_png": "data/images",
    "lut_masks": "data/masks",
    "class_percentages": "data/class_percentages.parquet",
    "osm_metadata": "data/osm_metadata.parquet",
    "captions": "data/captions.parquet",
    "dataset": "data/dataset",
    "base_model": "models/base",
    "adapt_base": "models/adapted_base",
    "encode_latents": "data/latents",
    "train_segmenter": "models/segmenter",
    "train_controlnet": "models/controlnet",
    "generate_validation": "data/generated",
    "evaluate_FID": "metrics/evaluation.json",
    "evaluate_utility": "metrics/utility.json",
}
TINY = {
    "runtime": {"workers": 1},
    "raw_patches": {"sample": {"zone_side": 1}},
    "base_model": {"tiny": {"unet": {"steps": 4}}},
    "train_segmenter": {"steps": 6},
    "train_controlnet": {"steps": 4, "warmup_steps": 2},
    "tracking": {"log_every": 2, "images_every": 4},
    "evaluate_utility": {"steps": 3},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpus", nargs="+", default=["Haswell", "EPYC"])
    parser.add_argument("--own", action="store_true")
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.probe:
        probe(Path(arguments.probe))
        return
    expected = run("", arguments.own)
    equal = 0
    for cpu in arguments.cpus:
        hashes = run(cpu, arguments.own)
        different = [STAGES[name] for name in STAGES if hashes[name] != expected[name]]
        equal += len(STAGES) - len(different)
        print(f"{cpu}: {', '.join(different) or 'no output'} differs from this CPU's", flush=True)
    total = len(arguments.cpus) * len(STAGES)
    report = {"ours": equal, "peer": total, "ratio": equal / total, "units": "outputs equal"}
    print(json.dumps(report | {"cpus": arguments.cpus, "own": arguments.own}))


def run(cpu: str, own: bool) -> dict[str, str]:
    """Hashes of the outputs by stage, on an emulated CPU, or on this one if `cpu` is ""."""
    with tempfile.TemporaryDirectory(prefix="aerialdreams-") as folder:
        project = clone(Path(folder) / "project")
        set_params(project, TINY)
        set_params(project, {"compute": {"portable": not own}})
        # Worker processes must run on the emulated CPU too: this script replaces their interpreter.
        python = Path(folder) / "python"
        emulator = f"qemu-x86_64 -cpu {cpu} " if cpu else ""
        python.write_text(f'#!/bin/sh\nexec {emulator}{sys.executable} "$@" 2>> {folder}/log\n')
        python.chmod(0o755)
        command = [str(python), "-m", "benchmarks.other_cpus", "--probe", str(python)]
        finished = subprocess.run(command, cwd=project, stdout=subprocess.PIPE, text=True)
        if finished.returncode:
            sys.exit(f"{cpu or 'this CPU'}: {(Path(folder) / 'log').read_text()[-2000:]}")
    hashes: dict[str, str] = json.loads(finished.stdout.splitlines()[-1])
    return hashes


def probe(python: Path) -> None:
    """Run all stages in this process and print the hashes of their outputs."""
    set_executable(str(python))
    params, hashes = load_params(), {}
    if params.compute.portable:
        portable_arithmetic.use_portable_kernels()
    for name, output in STAGES.items():
        importlib.import_module(f"stages.{name}").main(params)
        hashes[name] = dvc_md5(Path(output))
        print(name, hashes[name], file=sys.stderr, flush=True)
    print(json.dumps(hashes))


if __name__ == "__main__":
    main()
