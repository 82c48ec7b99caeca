"""The page in a real browser: the whole story of a planner who changes a place."""

import base64
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
import requests
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from tests.evaluation.test_results import CHROMIUM

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on the PATH")
SCRIPT = "<img src=x onerror=alert(1)>"


@pytest.fixture
def page(server: str) -> Iterator[Page]:
    """The page, in a browser that may load nothing else; what it complains of fails the test."""
    problems: list[str] = []

    def outside(url: str) -> None:
        if not url.startswith((server, "blob:", "data:")):
            problems.append(url)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1280, "height": 900}, accept_downloads=True)
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on("dialog", lambda dialog: problems.append(dialog.message))
        opened.on("request", lambda asked: outside(asked.url))
        opened.goto(server)
        opened.wait_for_selector("body[data-ready]")
        yield opened
        browser.close()
    assert not problems


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag over the canvas; points are shares of its width and height."""
    box = page.locator("#canvas").bounding_box()
    assert box
    (x0, y0), (x1, y1) = (
        (box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)
    )
    page.mouse.move(x0, y0)
    page.mouse.down()
    page.mouse.move(x1, y1, steps=8)
    page.mouse.up()


def generate(page: Page, results: int) -> None:
    """Generate and wait until there are so many results."""
    page.click("#generate")
    expect(page.locator("#history li")).to_have_count(results, timeout=60_000)


def latest(page: Page, server: str) -> NDArray[np.uint8]:
    """The first image of the latest result."""
    source = page.locator("#history li img").first.get_attribute("src")
    content = requests.get(f"{server}/{source}", timeout=10).content
    return np.array(Image.open(io.BytesIO(content)))


def download(page: Page, name: str, folder: Path) -> Path:
    """Click a link and keep what it gives."""
    with page.expect_download() as waiting:
        page.get_by_role("link", name=name).click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def test_a_planner_draws_a_road(page: Page, server: str, tmp_path: Path) -> None:
    page.select_option("#patches", index=1)
    expect(page.locator("#prompt")).not_to_have_value("")
    place = page.locator("#prompt").input_value().partition(". ")[0]
    generate(page, 1)
    first = latest(page, server)
    expect(page.locator("#judged")).to_contain_text("Does it obey?")
    expect(page.locator("#image-left")).to_have_attribute("alt", "real photograph")

    page.get_by_text("greenhouse", exact=True).click()
    page.locator("[data-tool=line]").click()
    page.fill("#size", "6")
    drag(page, (0.5, 0.4), (0.5, 0.6))
    expect(page.locator("#share-18")).not_to_be_empty()
    expect(page.locator("#prompt")).to_have_value(re.compile(rf"^{place}.*greenhouse"))
    page.check("#only-changed")
    page.fill("#margin", "3")
    generate(page, 2)
    second = latest(page, server)
    differing = (first != second).any(2)
    assert 0 < differing.mean() < 0.35
    side = first.shape[0]
    assert not differing[: side // 5].any() and not differing[:, : side // 4].any()

    archive = zipfile.ZipFile(download(page, "All as GeoTIFFs", tmp_path))
    archive.extractall(tmp_path)
    with rasterio.open(tmp_path / "image-1.tif") as file:
        assert file.crs.to_epsg() == 2154 and file.tags()["SYNTHETIC"] == "YES"
        assert np.array_equal(file.read().transpose(1, 2, 0), second)
    with rasterio.open(tmp_path / "mask.tif") as file:
        assert (file.read(1) == 18).any()
    recipe = download(page, "Recipe", tmp_path)
    page.reload()
    page.wait_for_selector("body[data-ready]")
    page.set_input_files("#file", recipe)
    expect(page.locator("#only-changed")).to_be_checked()
    generate(page, 1)
    assert np.array_equal(latest(page, server), second)


def test_two_tabs_do_not_disturb_each_other(page: Page, server: str, tmp_path: Path) -> None:
    """Each tab has its own mask and results, though both generate at the same time."""
    assert page.context.browser
    other = page.context.browser.new_page()
    other.goto(server)
    other.wait_for_selector("body[data-ready]")
    for tab, index in ((page, 1), (other, 2)):
        tab.select_option("#patches", index=index)
        expect(tab.locator("#prompt")).not_to_have_value("")
    for tab in (page, other):
        tab.click("#generate")
    masks = []
    for tab in (page, other):
        expect(tab.locator("#history li")).to_have_count(1, timeout=60_000)
        recipe = json.loads(download(tab, "Recipe", tmp_path).read_text())
        masks.append(recipe["mask"])
    assert masks[0] != masks[1]
    assert not np.array_equal(latest(page, server), latest(other, server))
    patches = requests.get(f"{server}/api/patches", timeout=10).json()
    for mask, patch in zip(masks, patches[:2], strict=True):
        chosen = {key: patch[key] for key in ("split", "row")}
        ground = requests.post(f"{server}/api/grounds/patch", json=chosen, timeout=10).json()
        assert ground["mask"] == mask


def mask_of(page: Page, tmp_path: Path) -> NDArray[np.uint8]:
    """What is drawn, by a recipe that is made of it."""
    generate(page, page.locator("#history li").count() + 1)
    recipe = json.loads(download(page, "Recipe", tmp_path).read_text())
    ids = np.frombuffer(base64.b64decode(recipe["mask"]), np.uint8)
    return ids.reshape(recipe["height"], recipe["width"])


def test_every_tool_draws_whole_classes(page: Page, tmp_path: Path) -> None:
    """No pixel has any other id than those that were drawn, and undo takes back each step."""
    page.get_by_text("herbaceous vegetation", exact=True).click()
    page.fill("#new-width", "64")
    page.fill("#new-height", "64")
    page.click("#new")
    for key, tool, ends in (
        ("1", "brush", ((0.4, 0.3), (0.6, 0.35))),
        ("2", "rectangle", ((0.4, 0.5), (0.5, 0.6))),
        ("3", "line", ((0.35, 0.9), (0.65, 0.7))),
    ):
        page.locator("#canvas").focus()
        page.keyboard.press(key)
        page.locator(f"[data-tool={tool}]").click()
        drag(page, *ends)
    drawn = mask_of(page, tmp_path)
    assert set(np.unique(drawn)) == {1, 2, 3, 10}
    page.locator("#canvas").focus()
    page.keyboard.press("Control+z")
    assert set(np.unique(mask_of(page, tmp_path))) == {1, 2, 10}
    page.locator("#canvas").focus()
    page.keyboard.press("Control+y")
    page.keyboard.press("5")
    page.locator("[data-tool=fill]").click()
    drag(page, (0.36, 0.1), (0.36, 0.1))
    filled = mask_of(page, tmp_path)
    assert set(np.unique(filled)) >= {1, 2, 3, 5}
    assert (filled == 5).sum() > 1000
    page.locator("[data-tool=eraser]").click()
    page.fill("#size", "200")
    drag(page, (0.5, 0.5), (0.52, 0.5))
    assert set(np.unique(mask_of(page, tmp_path))) == {10}


def test_drawing_by_keyboard_alone(page: Page, tmp_path: Path) -> None:
    page.fill("#new-width", "64")
    page.fill("#new-height", "64")
    page.click("#new")
    page.locator("#canvas").focus()
    page.keyboard.press("r")
    page.keyboard.press("5")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Space")
    drawn = mask_of(page, tmp_path)
    assert (drawn == 5).sum() == 11 * 11 and (drawn[32:43, 33:44] == 5).all()


def test_messages_and_text_that_is_no_html(page: Page, tmp_path: Path) -> None:
    page.click("#generate")
    expect(page.locator("#message")).to_contain_text("Start from a place")
    wrong = tmp_path / "a <b>.png"
    wrong.write_bytes(b"no image")
    page.set_input_files("#file", wrong)
    expect(page.locator("#message")).to_contain_text("is no PNG")
    page.click("#new")
    page.fill("#prompt", SCRIPT)
    generate(page, 1)
    page.fill("#new-width", "5")
    page.click("#new")
    expect(page.locator("#message")).to_contain_text("from 8 to")


@pytest.mark.parametrize("width", [1280, 800])
def test_nothing_is_wider_than_the_window(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.select_option("#patches", index=1)
    generate(page, 1)
    assert page.locator("html").evaluate("node => node.scrollWidth") <= width
    assert page.locator("#synthetic, .synthetic").first.is_visible()
