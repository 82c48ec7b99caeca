"""Feed random inputs to the readers of users' files, as tests/fuzz does, but many more.

Usage   python -m benchmarks.fuzz_readers [--examples N] [--seed N] [--only READER]
Prints how many inputs each reader accepted and refused, the first fault of each, and as the last
line JSON. Exit code 1 if there is a fault: another exception than ours, a message without the
file's name, or a wrong value.
"""

import argparse
import json
import sys
import time
from collections import Counter

from hypothesis import HealthCheck, given, seed, settings

from tests.fuzz.readers import READERS, Reader


def run(reader: Reader, examples: int, number: int, counts: Counter[str]) -> None:
    """Check `examples` inputs; `counts` gets how many were accepted and refused."""

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(reader.inputs)
    def check(example: object) -> None:
        counts[reader.check(example)] += 1

    check()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=10_000, help="per reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(READERS))
    args = parser.parse_args()
    report, faults = {}, {}
    for name, reader in READERS.items():
        if args.only and name != args.only:
            continue
        counts: Counter[str] = Counter()
        start = time.perf_counter()
        try:
            run(reader, args.examples, args.seed, counts)
        except BaseException as error:  # hypothesis groups several faults
            faults[name] = f"{type(error).__name__}: {error}"[:500]
        seconds = time.perf_counter() - start
        report[name] = dict(counts) | {"fault": faults.get(name), "seconds": round(seconds, 1)}
        print(f"{name:10} {dict(counts)} {seconds:.0f} s {faults.get(name, '')}", flush=True)
    print(json.dumps({"examples": args.examples, "seed": args.seed, "readers": report}))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
