"""The HTML pages: escaped, self-contained, and no wider than the window."""

import base64
import html
import io
import json
import re
import subprocess
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from jinja2 import UndefinedError
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from aerialdreams.data.images import write_image
from aerialdreams.data.index import read_index
from aerialdreams.params import Params, load_params, read_yaml
from aerialdreams.paths import (
    ADAPTED_BASE,
    AGREEMENT,
    CONFUSION,
    CONTROLNET_LOSSES,
    CONTROLNET_VALIDATION_LOSSES,
    EVALUATION,
    FREQUENCIES,
    GENERATED,
    REPORT,
    UTILITY,
)
from aerialdreams.pipeline.comparison import (
    Comparison,
    Group,
    Table,
    metric_rows,
    params_rows,
    verdict,
)
from aerialdreams.pipeline.comparison_page import comparison_page
from aerialdreams.pipeline.experiments import Experiment
from aerialdreams.pipeline.html import data_url, render
from aerialdreams.pipeline.report_page import changed_params
from aerialdreams.pipeline.settings import DEFAULTS
from aerialdreams.pipeline.zones_page import zones_page
from aerialdreams.util.files import write_json
from aerialdreams.util.tables import write_table
from stages import (
    captions,
    class_percentages,
    dataset,
    evaluate_FID,
    lut_masks,
    report,
    tiff_to_png,
)
from tests.conftest import ROOT, changed
from tests.evaluation.test_results import CHROMIUM, browser

SCRIPT = "<script>alert(1)</script>"
CAPTION = f"L'Yon & {SCRIPT}."
ESCAPED = html.escape(SCRIPT)
LONG = "a_branch_with_a_long_name_" * 8  # no place to break a line at


@pytest.fixture
def zones(indexed: Params) -> str:
    """The zones of three patches, a commune of which is unknown."""
    patches = read_index()
    communes = [f"Saint-{SCRIPT}", "Fontréal", None]
    places = pd.DataFrame({"patch_id": patches["patch_id"], "commune": communes})
    return zones_page(patches.assign(caption=CAPTION), places, 512, "IGN")


def experiment(name: str, template: str, seed: int) -> Experiment:
    """An experiment with invented images and scores."""
    draw = np.random.default_rng(seed)
    ids = [f"{number:06}" for number in range(6)]

    def read(path: Path) -> bytes:
        file = io.BytesIO()
        Image.fromarray(draw.integers(256, size=(96, 96, 3), dtype=np.uint8)).save(file, "PNG")
        return file.getvalue()

    params = {"captions.templates": template, "train_controlnet.seed": 3}
    evaluation = json.loads((ROOT / EVALUATION).read_text())
    agreement = pd.Series(draw.uniform(size=6), index=ids)
    return Experiment(name, params, evaluation, agreement, {}, read)


@pytest.fixture
def comparison() -> str:
    """Four experiments whose names fit no line, and whose table fits no window."""
    experiments = [experiment(f"{LONG}{seed}", f"{seed} {CAPTION}", seed) for seed in range(4)]
    groups = [Group(one.name, [one]) for one in experiments]
    columns = ["", *(group.name for group in groups)]
    tables = [
        Table("Parameters", columns, params_rows(groups)),
        Table("Metrics", columns, metric_rows(groups)),
    ]
    return comparison_page(Comparison(groups, tables, [verdict(*groups[:2])]))


@pytest.fixture
def evaluated(indexed: Params) -> Params:
    """What the report reads, of three patches, one in each split; metrics are the project's."""
    for stage in (tiff_to_png, lut_masks, class_percentages):
        stage.main(indexed)
    patches = read_index(["patch_id", "split"]).to_dict("records")
    rows = [{"patch_id": p["patch_id"], "caption": CAPTION, "variants": [CAPTION]} for p in patches]
    write_table(captions.CAPTIONS, rows, captions.SCHEMA)
    dataset.main(indexed)
    size = indexed.image_size
    image = np.random.default_rng(0).integers(256, size=(size, size, 3), dtype=np.uint8)
    agreement = []
    for patch in patches:
        if patch["split"] != "train":
            path = GENERATED / patch["split"] / f"generated/IMG_{patch['patch_id']}.png"
            path.parent.mkdir(parents=True)
            write_image(path, image)
            agreement.append(patch | {"source": "generated", "pixel_accuracy": 0.5})
    write_table(AGREEMENT, agreement, evaluate_FID.AGREEMENT_SCHEMA)
    write_json(GENERATED / "manifest.json", {"controlnet_md5": "0123"})
    for path in (EVALUATION, CONFUSION, UTILITY, FREQUENCIES, DEFAULTS):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((ROOT / path).read_bytes())
    ADAPTED_BASE.mkdir(parents=True)
    write_json(ADAPTED_BASE / "source.json", {"source": "tiny"})
    for path in (CONTROLNET_LOSSES, CONTROLNET_VALIDATION_LOSSES):
        path.write_text("step,loss\n10,0.8\n20,0.4\n")
    return indexed


@pytest.fixture
def report_page(evaluated: Params, monkeypatch: pytest.MonkeyPatch) -> str:
    """The report stage's page."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert report.main(evaluated).startswith("2 figures")
    return REPORT.read_text(encoding="utf-8")


PAGES = ("zones", "comparison", "report_page")


class Links(HTMLParser):
    """Collects what a page refers to and its elements' names."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]


@pytest.mark.parametrize("name", PAGES)
def test_markup_in_a_caption_is_escaped(name: str, request: pytest.FixtureRequest) -> None:
    page = request.getfixturevalue(name)
    assert ESCAPED in page
    assert page.count("<script") == (name == "report_page")  # its own, see the next test


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_self_contained(name: str, request: pytest.FixtureRequest) -> None:
    page = request.getfixturevalue(name)
    reader = Links()
    reader.feed(page)
    assert {"h1", "style"} <= reader.tags
    assert not {"link", "iframe"} & reader.tags
    inline = ("data:image/png;base64,", "data:image/jpeg;base64,", "#")
    assert all(link.startswith(inline) for link in reader.links)
    # The only script is the page's own: the policy names its hash.
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = [base64.b64encode(sha256(text.encode()).digest()).decode() for text in scripts]
    assert re.findall(r"script-src 'sha256-([^']*)'", page) == hashes
    assert bool(scripts) == (name == "report_page")
    assert ("img" in reader.tags) == (name != "zones")
    assert "url(" not in page and "@import" not in page


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on the PATH")
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_no_wider_than_its_window(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Long headlines wrap and wide tables scroll, in a window of 1000 pixels."""
    page = request.getfixturevalue(name)
    frame = tmp_path / "frame.html"
    frame.write_text(
        '<!doctype html><meta charset="utf-8"><title></title>'
        f'<iframe id="page" width="1000" height="800" srcdoc="{html.escape(page)}"></iframe>'
        "<script>page.onload = () => { const shown = page.contentDocument.scrollingElement;"
        " document.title = `${shown.scrollWidth} of ${shown.clientWidth}`; }</script>",
        encoding="utf-8",
    )
    command = [*browser(tmp_path), "--dump-dom", frame.as_uri()]
    drawn = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    title = drawn.stdout.partition("<title>")[2].partition("</title>")[0]
    width, window = map(int, title.split(" of "))
    assert 900 < window <= 1000  # less a scroll bar
    assert width <= window


def test_the_report_has_the_same_bytes_again(report_page: str, evaluated: Params) -> None:
    REPORT.unlink()
    report.main(evaluated)
    assert REPORT.read_text(encoding="utf-8") == report_page


def test_the_report_shows_what_it_read(report_page: str) -> None:
    numbers = json.loads(EVALUATION.read_text())["validation"]
    ratio = numbers["generated"]["miou_of_real"]
    assert f"follow their masks {100 * ratio:.0f} % as well as real photographs" in report_page
    assert "an invented sample in the format of FLAIR #1" in report_page
    assert "<figcaption><b>50 %</b>" in report_page
    confusion = json.loads(CONFUSION.read_text())["validation"]["generated"]
    water = [int(value) for value in confusion[4]]
    share = f'title="water as water">{100 * water[4] / sum(water):.0f}</td>'
    assert share in report_page
    assert "Training loss: 0.4000 after 20 steps" in report_page
    assert 'points="240.0,0.0 480.0,100.0"' in report_page


def test_a_template_with_a_missing_value_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render("zones.html", title="Zones")


def test_an_image_as_a_data_url() -> None:
    rgb = np.random.default_rng(0).integers(256, size=(4, 5, 3), dtype=np.uint8)
    prefix, _, text = data_url(rgb).partition(",")
    assert prefix == "data:image/png;base64"
    png = base64.b64decode(text)
    assert np.array_equal(np.array(Image.open(io.BytesIO(png))), rgb)
    assert data_url(png) == data_url(rgb)


def test_changed_params_are_listed(evaluated: Params) -> None:
    defaults = load_params(ROOT / DEFAULTS)
    assert changed_params(defaults, defaults) == []
    other = changed(evaluated, train_controlnet={"steps": 7}, tracking={"images": 1})
    report.main(other)
    page = REPORT.read_text(encoding="utf-8")
    section = page.partition("differ from the defaults")[2].partition("<details>")[0]
    rows = re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td>', section)
    assert ("train_controlnet.steps", "7", str(defaults.train_controlnet.steps)) in rows
    assert not any(name.startswith("tracking") for name, _, _ in rows)  # it changes no output


def test_the_default_settings_are_the_params() -> None:
    assert read_yaml(ROOT / DEFAULTS) == read_yaml(ROOT / "params.yaml")


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on the PATH")
def test_samples_are_compared_filtered_and_printed(report_page: str, tmp_path: Path) -> None:
    """A visitor moves a divider, filters by split and class, and prints the page."""
    validation, test = _figures(report_page)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = chromium.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text))
        page.goto((Path.cwd() / REPORT).as_uri())
        figures = page.locator("figure.sample")
        expect(figures).to_have_count(2)
        expect(page.locator("output")).to_have_text("2 of 2 patches")
        first = figures.first
        expect(first.locator("img.mask")).to_be_visible()
        expect(first.locator("img.real")).to_be_hidden()
        first.locator("input").fill("20")
        expect(first.locator("img.mask")).to_have_css("clip-path", re.compile(r"80%"))
        page.get_by_label("Compare").select_option(label="real and generated")
        expect(first.locator("img.real")).to_be_visible()
        expect(first.locator("img.mask")).to_be_hidden()
        page.get_by_label("Split").select_option("test")
        expect(figures).to_have_count(1)
        expect(figures).to_have_attribute("data-id", test)
        page.get_by_label("Split").select_option("validation")
        expect(figures).to_have_attribute("data-id", validation)
        page.get_by_label("Agreement").select_option(label="below 50 %")
        expect(figures).to_have_count(0)
        page.emulate_media(media="print")
        page.reload()
        for name in ("mask", "real", "generated"):
            expect(figures.first.locator(f"img.{name}")).to_be_visible()
        expect(page.locator("#tools")).to_be_hidden()
        chromium.close()
    assert not errors


def _figures(page: str) -> list[str]:
    """The patch ids of a page's samples."""
    return re.findall(r'data-split="\w+" data-id="(\w+)"', page)
