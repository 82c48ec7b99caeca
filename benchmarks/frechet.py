"""Our Fréchet distance against the matrix square root that other libraries take it by.

Usage   python -m benchmarks.frechet [--images N ...]
Features of 2048 dimensions, their spectrum falling as the FID Inception's does; the peer is
SciPy's `sqrtm` of the product of the covariances, as in pytorch-fid and torch-fidelity. Prints how
far they are apart, and a last line of JSON for the first N.
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
    words = parser.parse_args()
    reports = []
    for count in words.images:
        a, b = draw(count, 0), draw(count, 1)
        began = time.perf_counter()
        ours = frechet_distance(a, b)
        middle = time.perf_counter()
        peer = by_square_root(a, b)
        end = time.perf_counter()
        seconds, peers = middle - began, end - middle
        apart = abs(ours - peer) / peer
        print(f"N = {count}: ours {ours:.8f} in {seconds:.2f} s, peer {peer:.8f} in {peers:.2f} s")
        report = {"ours": seconds, "peer": peers, "ratio": peers / seconds, "units": "seconds"}
        more = {"images": count, "relative_difference": apart, "cores": os.cpu_count()}
        reports.append(report | more | {"versions": {"scipy": scipy.__version__}})
    print(json.dumps(reports[0] | {"others": reports[1:]}))


def draw(count: int, seed: int) -> Features:
    """Features of so many images."""
    spectrum = np.arange(1, DIMENSIONS + 1) ** -0.6
    return np.random.default_rng(seed).normal(size=(count, DIMENSIONS)) * spectrum + 0.01 * seed


def by_square_root(a: Features, b: Features) -> float:
    """|mean_a - mean_b|² + tr(A) + tr(B) - 2 tr((A B)^½), the root by SciPy."""
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = sqrtm(cov_a @ cov_b)
    shift = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return float(shift + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(root.real))


if __name__ == "__main__":
    main()
