"""The page of `aerialdreams serve`: time to load, memory over many generations, clients at once.

Usage   python -m benchmarks.page [--generations N]
Run it after `dvc repro`. Starts the server, measures how long Chromium takes until the page can be
used, and how long from a click until it shows that work has begun; then asks for N images (default
200), one after another, and reads the server's memory after the first 20 and after the last. Prints
a table and, as the last line, JSON.
"""

import argparse
import base64
import json
import shutil
import statistics
import subprocess
import time

import numpy as np
import psutil
import requests

from aerialdreams.params import load_params
from tests.servers import free_port, wait_for

WARM = 20  # generations before memory is first read
LOADS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=200)
    arguments = parser.parse_args()
    port = free_port()
    process = subprocess.Popen(["aerialdreams", "serve", "--port", str(port)])
    try:
        wait_for(port, process)
        server = f"http://127.0.0.1:{port}"
        result = measure_page(server) | measure_memory(server, process, arguments.generations)
    finally:
        process.terminate()
        process.wait(60)
    for key, value in result.items():
        print(f"{key:32} {value:8.2f}")
    print(json.dumps(result))


def measure_page(server: str) -> dict[str, float]:
    """Seconds until the page can be used, and from a click to the first sign of work."""
    from playwright.sync_api import expect, sync_playwright

    loads, feedback = [], []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for _ in range(LOADS):
            page = chromium.new_context().new_page()
            started = time.perf_counter()
            page.goto(server)
            page.wait_for_selector("body[data-ready]")
            loads.append(time.perf_counter() - started)
            page.select_option("#patches", index=1)
            expect(page.locator("#prompt")).not_to_have_value("")
            # Measured in the page: the clicks of a driver take longer than a person's.
            feedback.append(
                page.evaluate(
                    """() => new Promise((done) => {
                        const started = performance.now();
                        const watch = new MutationObserver(() => {
                            watch.disconnect();
                            requestAnimationFrame(() => done(performance.now() - started));
                        });
                        watch.observe(document.body,
                            { childList: true, subtree: true, attributes: true });
                        document.querySelector("#generate").click();
                    })"""
                )
                / 1000
            )
            page.locator("#history li").first.wait_for(timeout=120_000)
        chromium.close()
    return {
        "seconds_to_load": statistics.median(loads),
        "seconds_to_feedback": statistics.median(feedback),
    }


def measure_memory(
    server: str, process: "subprocess.Popen[bytes]", generations: int
) -> dict[str, float]:
    """Memory of the server after the first and the last generations, MB, and seconds for each."""
    side = load_params().image_size
    mask = np.full((side, side), 10, np.uint8)
    mask[side // 3 : side // 2] = 3
    asked = {"width": side, "height": side, "mask": base64.b64encode(mask.tobytes()).decode()}
    memory, started = [], time.perf_counter()
    for number in range(generations):
        answer = requests.post(f"{server}/api/jobs", json=asked | {"seed": number}, timeout=60)
        job = answer.json()
        while job["status"] in ("waiting", "running"):
            time.sleep(0.05)
            job = requests.get(f"{server}/api/jobs/{job['id']}", timeout=60).json()
        if job["status"] != "done":
            raise SystemExit(f"generation {number} failed: {job}")
        if number + 1 in (WARM, generations):
            memory.append(psutil.Process(process.pid).memory_info().rss / 1e6)
    return {
        "megabytes_after_20": memory[0],
        "megabytes_at_the_end": memory[-1],
        "seconds_per_generation": (time.perf_counter() - started) / generations,
    }


if __name__ == "__main__":
    main()
