"""Compare our Fréchet distance with the matrix square root that other libraries use.

Usage   python -m benchmarks.frechet [--images N ...]
The features are random, with 2048 dimensions and a decreasing spectrum like the FID Inception's.
The peer is SciPy's `sqrtm` of the product of the covariances, as in pytorch-fid and torch-fidelity.
Prints values and times and, as the last line, JSON for the first N.
"""

import argparse
import json
import os
import time

import numpy as np
import scipy
from scipy.linalg import sqrtm

from aerialdreams.evaluation.metrics import Features, frechet_distance

DIMENSIONS = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[500, 3000])
    arguments = parser.parse_args()
    reports = []
    for count in arguments.images:
        a, b = random_features(count, 0), random_features(count, 1)
        start = time.perf_counter()
        ours = frechet_distance(a, b)
        middle = time.perf_counter()
        peer = by_square_root(a, b)
        end = time.perf_counter()
        our_time, peer_time = middle - start, end - middle
        difference = abs(ours - peer) / peer
        print(
            f"N = {count}: ours {ours:.8f} in {our_time:.2f} s,"
            f" peer {peer:.8f} in {peer_time:.2f} s"
        )
        report = {
            "ours": our_time,
            "peer": peer_time,
            "ratio": peer_time / our_time,
            "units": "seconds",
        }
        details = {"images": count, "relative_difference": difference, "cores": os.cpu_count()}
        reports.append(report | details | {"versions": {"scipy": scipy.__version__}})
    print(json.dumps(reports[0] | {"others": reports[1:]}))


def random_features(count: int, seed: int) -> Features:
    """Random features, (count, DIMENSIONS)."""
    spectrum = np.arange(1, DIMENSIONS + 1) ** -0.6
    return np.random.default_rng(seed).normal(size=(count, DIMENSIONS)) * spectrum + 0.01 * seed


def by_square_root(a: Features, b: Features) -> float:
    """|mean_a - mean_b|² + tr(A) + tr(B) - 2 tr((A B)^½), with SciPy's matrix square root."""
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = sqrtm(cov_a @ cov_b)
    shift = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return float(shift + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(root.real))


if __name__ == "__main__":
    main()
