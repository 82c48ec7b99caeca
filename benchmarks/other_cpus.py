"""The whole pipeline on other CPUs: does it end with the same bytes?

Usage   python -m benchmarks.other_cpus [--cpus NAME ...] [--own]
Every stage, very small, runs on this machine's CPU and on others that qemu-user emulates (Debian's
package of that name; `qemu-x86_64 -cpu help` lists them; some minutes each), and the outputs are
compared by hash. --own runs with compute.portable: false, so that each library takes its CPU's own
instructions. Prints the outputs that differ, and a last line of JSON.
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

STAGES = {  # what each writes that is compared
    "raw_patches": "data/raw",
    "patch_index": "data/patches.parquet",
    "tiff_to_png": "data/images",
    "lut_masks": "data/masks",
    "class_percentages": "data/class_percentages.parquet",
    "osm_metadata": "data/osm_metadata.parquet",
    "captions": "data/captions.parquet",
    "dataset": "data/dataset",
    "base_model": "models/base",
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
    "base_model": {"tiny": {"vae": {"steps": 6, "full_image_steps": 3}, "unet": {"steps": 4}}},
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
    words = parser.parse_args()
    if words.probe:
        probe(Path(words.probe))
        return
    here = run("", words.own)
    same = 0
    for cpu in words.cpus:
        found = run(cpu, words.own)
        other = [STAGES[name] for name in STAGES if found[name] != here[name]]
        same += len(STAGES) - len(other)
        print(f"{cpu}: {', '.join(other) or 'no output'} differs from this CPU's", flush=True)
    total = len(words.cpus) * len(STAGES)
    report = {"ours": same, "peer": total, "ratio": same / total, "units": "outputs equal"}
    print(json.dumps(report | {"cpus": words.cpus, "own": words.own}))


def run(cpu: str, own: bool) -> dict[str, str]:
    """The hashes of all outputs, by stage, on an emulated CPU or, without a name, on this one."""
    with tempfile.TemporaryDirectory(prefix="aerialdreams-") as folder:
        place = clone(Path(folder) / "project")
        set_params(place, TINY)
        set_params(place, {"compute": {"portable": not own}})
        # Worker processes must run on that CPU too: they are started by what looks like a Python.
        python = Path(folder) / "python"
        emulator = f"qemu-x86_64 -cpu {cpu} " if cpu else ""
        python.write_text(f'#!/bin/sh\nexec {emulator}{sys.executable} "$@" 2>> {folder}/log\n')
        python.chmod(0o755)
        command = [str(python), "-m", "benchmarks.other_cpus", "--probe", str(python)]
        ended = subprocess.run(command, cwd=place, stdout=subprocess.PIPE, text=True)
        if ended.returncode:
            sys.exit(f"{cpu or 'this CPU'}: {(Path(folder) / 'log').read_text()[-2000:]}")
    found: dict[str, str] = json.loads(ended.stdout.splitlines()[-1])
    return found


def probe(python: Path) -> None:
    """Run all stages in this process, and print their outputs' hashes."""
    set_executable(str(python))
    params, found = load_params(), {}
    if params.compute.portable:
        portable_arithmetic.use_portable_kernels()
    for name, output in STAGES.items():
        importlib.import_module(f"stages.{name}").main(params)
        found[name] = dvc_md5(Path(output))
        print(name, found[name], file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
