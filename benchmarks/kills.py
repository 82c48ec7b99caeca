"""dvc killed at random moments of the data stages: does the next run end with the same bytes?

Usage   python -m benchmarks.kills [--times N] [--seed N]
In a clone of what is committed, small, `dvc repro -f dataset` is killed N times by SIGKILL, each
time at a random moment, and `dvc repro dataset` must then end with the dvc.lock of an undisturbed
run. Prints where each kill fell, and a last line of JSON.
"""

import argparse
import json
import os
import random
import re
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.test_end_to_end import clone, dvc, environment, stages_in

GOAL = "dataset"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    draw = random.Random(words.seed)
    with tempfile.TemporaryDirectory() as folder:
        place = clone(Path(folder) / "project")
        began = time.monotonic()
        dvc(place, "repro", GOAL)
        whole, duration = (place / "dvc.lock").read_text(), time.monotonic() - began
        fell: Counter[str] = Counter()
        same = 0
        for number in range(words.times):
            stage = kill_after(place, draw.uniform(1.5, duration))
            # DVC rewrites dvc.lock after each stage; a kill in that moment cuts the file.
            subprocess.run(["git", "checkout", "-q", "dvc.lock"], cwd=place, check=True)
            ended = dvc(place, "repro", GOAL)
            good = ended.returncode == 0 and (place / "dvc.lock").read_text() == whole
            same += good
            fell[stage] += 1
            print(f"{number + 1:3} killed in {stage}: {'same bytes' if good else ended.stderr}")
    report = {"ours": same, "peer": words.times, "ratio": same / words.times}
    details = {
        "units": "kills survived",
        "fell": dict(fell),
        "cores": os.cpu_count(),
    }
    print(json.dumps(report | details))


def kill_after(place: Path, seconds: float) -> str:
    """Start everything anew, kill `dvc` after so long; gives the stage that it was in."""
    with (place / "killed.log").open("w") as log:
        process = subprocess.Popen(
            ["dvc", "repro", "-f", GOAL], cwd=place, env=environment(), stdout=log, stderr=log
        )
        time.sleep(seconds)
        process.kill()
        process.wait()
    while stages_in(place):
        time.sleep(0.1)
    begun = re.findall(r"Running stage '([\w-]+)'", (place / "killed.log").read_text())
    return str(begun[-1]) if begun else "none yet"


if __name__ == "__main__":
    main()
