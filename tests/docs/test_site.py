"""The guide: it builds without warnings, loads nothing from outside, and names what exists."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docs.test_readme import PAGES
from tests.projects import params_of

EDGE = re.compile(r"^ *(\w+)(?:\[.*?\])? --> (\w+)$", re.M)
# Attributes from which a browser loads something when it shows a page.
LOADED = {"src", "srcset", "poster", "data"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guide as a website."""
    pytest.importorskip("material", reason="the extra `docs` is not installed")
    pytest.importorskip("mkdocstrings", reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return folder


class Resources(HTMLParser):
    """Collects the addresses that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            loads = name in LOADED or (name == "href" and tag == "link")
            if loads and value and ("rel", "canonical") not in attrs:
                self.urls.append(value)


def test_pages_load_nothing_from_other_servers(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 14
    for page in pages:
        resources = Resources()
        resources.feed(page.read_text(encoding="utf-8"))
        assert resources.urls
        outside = [url for url in resources.urls if re.match(r"(https?:)?//", url)]
        assert not outside, page
        # With Mermaid blocks the theme would load Mermaid from a CDN.
        assert 'class="mermaid"' not in page.read_text(encoding="utf-8")
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(.?(https?:)?//|@import", sheet.read_text(encoding="utf-8"))


def test_links_of_pages_outside_the_site() -> None:
    """MkDocs checks the links of docs/; this checks those of the README and its neighbours."""
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
        for link in links:
            if re.match(r"https?://", link):
                continue
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), f"{page.name}: {link}"
            assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs form them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {
        re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


def test_params_that_pages_name_exist() -> None:
    params = params_of(ROOT)
    named = set()
    for page in PAGES:
        for key in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)(?::[^`]*)?`", page.read_text()):
            group, *rest = key.split(".")
            if isinstance(params.get(group), dict) and rest[-1] != "py":
                value = params[group]
                for name in rest:
                    assert name in value, f"{page.name}: {key}"
                    value = value[name]
                named.add(key)
    assert len(named) > 20


def test_code_that_pages_name_exists() -> None:
    """`NAME` in `FILE.py`, `FILE.py` alone, and `python -m MODULE`."""
    files = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name, file in re.findall(r"`(\w+)`\s+in\s+`([\w/]+\.py)`", text):
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            assert name in {
                node.name
                for node in tree.body
                if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            }, f"{page.name}: {name} in {file}"
        for file in re.findall(r"`((?:aerialdreams|stages|tests)/[\w/]+\.py)`", text):
            if not file.endswith("/NAME.py"):
                assert (ROOT / file).is_file(), f"{page.name}: {file}"
                files += 1
        for module in re.findall(r"python -m ((?:aerialdreams|stages|benchmarks)\.[\w.]+)", text):
            if not module.endswith(".NAME"):
                path = ROOT / module.replace(".", "/")
                assert path.with_suffix(".py").is_file() or path.is_dir(), f"{page.name}: {module}"
    assert files > 10


@pytest.mark.parametrize("name", ["pipeline", "package"])
def test_diagrams_are_rendered_from_their_source(name: str) -> None:
    source = (ROOT / f"docs/diagrams/{name}.mmd").read_text()
    svg = (ROOT / f"docs/diagrams/{name}.svg").read_text()
    edges = {f"L_{first}_{second}" for first, second in EDGE.findall(source)}
    assert edges
    assert edges == set(re.findall(r'data-id="(L_\w+)_\d+"', svg)), "see CONTRIBUTING.md"


def test_imports_follow_the_arrows_of_the_package_diagram() -> None:
    arrows = EDGE.findall((ROOT / "docs/diagrams/package.mmd").read_text())
    below: dict[str, set[str]] = {}

    def reachable(room: str, above: tuple[str, ...] = ()) -> set[str]:
        assert room not in above, f"a cycle: {' > '.join((*above, room))}"
        if room not in below:
            direct = {second for first, second in arrows if first == room}
            below[room] = direct.union(*(reachable(other, (*above, room)) for other in direct))
        return below[room]

    against = []
    for path in sorted([*ROOT.glob("aerialdreams/*/**/*.py"), *ROOT.glob("stages/*.py")]):
        parts = path.relative_to(ROOT).parts
        room = parts[0] if parts[0] == "stages" else box_of(parts[1])
        allowed = {room} | reachable(room)
        against += [f"{'/'.join(parts)}: {name}" for name in {*imported(path)} - allowed]
    assert not against


def imported(path: Path) -> Iterator[str]:
    """The folders and modules of the package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            package, *rest = name.split(".")
            if package == "aerialdreams" and rest and not rest[0].startswith("_"):
                yield box_of(rest[0])


def box_of(room: str) -> str:
    """The diagram's box of a folder or module: params and the models of their groups are one."""
    return "params" if room == "param_groups" else room
