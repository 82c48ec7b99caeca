"""Kill dvc at random moments of the data stages; check that the next run ends with the same bytes.

Usage   python -m benchmarks.kills [--times N] [--seed N]
In a small clone of the committed project, `dvc repro -f dataset` is killed N times with SIGKILL,
each time at a random moment. `dvc repro dataset` must then end with the dvc.lock of an undisturbed
run. Prints the stage of each kill and, as the last line, JSON.
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

TARGET = "dataset"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        project = clone(Path(folder) / "project")
        start = time.monotonic()
        dvc(project, "repro", TARGET)
        expected, duration = (project / "dvc.lock").read_text(), time.monotonic() - start
        kills: Counter[str] = Counter()
        same = 0
        for number in range(arguments.times):
            stage = kill_after(project, rng.uniform(1.5, duration))
            # DVC rewrites dvc.lock after each stage. A kill at that moment truncates the file.
            subprocess.run(["git", "checkout", "-q", "dvc.lock"], cwd=project, check=True)
            resumed = dvc(project, "repro", TARGET)
            good = resumed.returncode == 0 and (project / "dvc.lock").read_text() == expected
            same += good
            kills[stage] += 1
            print(f"{number + 1:3} killed in {stage}: {'same bytes' if good else resumed.stderr}")
    report = {"ours": same, "peer": arguments.times, "ratio": same / arguments.times}
    details = {
        "units": "kills survived",
        "fell": dict(kills),
        "cores": os.cpu_count(),
    }
    print(json.dumps(report | details))


def kill_after(project: Path, seconds: float) -> str:
    """Start a forced run, kill `dvc` after some seconds and return the stage that was running."""
    with (project / "killed.log").open("w") as log:
        process = subprocess.Popen(
            ["dvc", "repro", "-f", TARGET], cwd=project, env=environment(), stdout=log, stderr=log
        )
        time.sleep(seconds)
        process.kill()
        process.wait()
    while stages_in(project):
        time.sleep(0.1)
    started = re.findall(r"Running stage '([\w-]+)'", (project / "killed.log").read_text())
    return str(started[-1]) if started else "none yet"


if __name__ == "__main__":
    main()
