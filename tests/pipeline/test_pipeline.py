"""dvc.yaml as a whole: complete, described, its dependencies those of the code."""

import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from aerialdreams.params import Params
from tests.conftest import ROOT
from tests.pipeline.test_layers import imports_of
from tests.projects import params_of

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
STAGES = {
    "raw-patches", "patch-index", "tiff-to-png", "lut-masks", "class-percentages",
    "compose-masks", "osm-metadata", "captions", "dataset", "base-model", "adapt-base",
    "encode-latents", "train-segmenter", "train-controlnet",
    "generate-validation", "evaluate-FID", "evaluate-utility", "report",
}  # fmt: skip
# What runs the work, and decides no byte of the results.
PLUMBING = {"errors", "param_groups", "params", "paths", "pipeline", "util"}


def outputs(stage: dict) -> list[str]:
    """What a stage writes that another may read."""
    named = [*stage.get("outs", []), *stage.get("plots", []), *stage.get("metrics", [])]
    return [out if isinstance(out, str) else next(iter(out)) for out in named]


@cache
def rooms_of(path: Path) -> frozenset[str]:
    """Rooms of `aerialdreams` that a file imports, directly or through others."""
    rooms: set[str] = set()
    for name in imports_of(path):
        parts = name.split(".")[1:]
        module = ROOT / "aerialdreams" / "/".join(parts[:-1] or parts)
        file = module.with_suffix(".py") if module.with_suffix(".py").exists() else module
        if not file.is_file():
            file = ROOT / "aerialdreams" / "/".join([*parts[:-1], f"{parts[-1]}.py"])
        if parts[0] not in PLUMBING:
            rooms |= {parts[0]} | (rooms_of(file) if file.is_file() else set())
    return frozenset(rooms)


def test_every_stage_of_the_design_is_there() -> None:
    assert set(PIPELINE) == STAGES
    for name, stage in PIPELINE.items():
        assert stage["cmd"] == f"python -m stages.{name.replace('-', '_')}"
        assert len(stage["desc"]) > 20


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_stage_depends_on_the_code_that_it_runs(name: str) -> None:
    script = f"stages/{name.replace('-', '_')}.py"
    needed = rooms_of(ROOT / script)
    deps = {str(dep) for dep in PIPELINE[name]["deps"]}
    assert script in deps
    listed = {Path(dep).parts[1] for dep in deps if dep.startswith("aerialdreams/")}
    assert listed - PLUMBING == needed


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_stage_that_writes_a_page_depends_on_its_templates(name: str) -> None:
    pipeline = "aerialdreams/pipeline"
    imported = modules_of_pipeline(ROOT / f"stages/{name.replace('-', '_')}.py")
    pages = {
        module
        for module in imported
        if "html" in {module} | modules_of_pipeline(ROOT / pipeline / f"{module}.py")
    }
    needed = {f"{pipeline}/{module}.py" for module in pages | {"html"}} | {f"{pipeline}/templates"}
    deps = set(PIPELINE[name]["deps"])
    assert deps & needed == (needed if pages else set())


def modules_of_pipeline(path: Path) -> set[str]:
    """Modules of the room `pipeline` that a file imports."""
    parts = [name.split(".") for name in imports_of(path)]
    return {part[2] for part in parts if part[:2] == ["aerialdreams", "pipeline"]}


def test_params_that_stages_name_exist(params: Params) -> None:
    groups = set(type(params).model_fields)
    used = {key.split(".")[0] for stage in PIPELINE.values() for key in stage.get("params", [])}
    assert used == groups - {"runtime", "tracking"}


def test_a_captions_wording_touches_only_what_reads_captions() -> None:
    """What a change of `captions` makes out of date, by the outputs that depend on it."""
    touched, grown = {"captions"}, True
    while grown:
        outs = [out for name in touched for out in outputs(PIPELINE[name])]
        more = {
            name
            for name, stage in PIPELINE.items()
            if name != "evaluate-FID" and any(dep in outs for dep in stage["deps"])
        }
        grown, touched = not more <= touched, touched | more
    assert not touched & {"tiff-to-png", "lut-masks", "osm-metadata", "train-segmenter"}
    assert "dataset" in touched


def value_of(dep: str) -> str:
    """A dependency, or the default of the param that names it."""
    if match := re.fullmatch(r"\$\{(\w+)\.(\w+)\}", dep):
        return str(params_of(ROOT)[match[1]][match[2]])
    return dep


def test_the_diagram_shows_the_pipeline() -> None:
    """The arrows of the guide's diagram are the dependencies in dvc.yaml."""
    diagram = (ROOT / "docs/diagrams/pipeline.mmd").read_text().replace("_", "-")
    drawn = set(re.findall(r"^ *([\w-]+) --> ([\w-]+)$", diagram, re.M))
    makers = {out: name for name, stage in PIPELINE.items() for out in outputs(stage)}
    edges = {
        (maker, name)
        for name, stage in PIPELINE.items()
        for dep in stage["deps"]
        for out, maker in makers.items()
        if value_of(dep) == out
    }
    assert drawn == edges
