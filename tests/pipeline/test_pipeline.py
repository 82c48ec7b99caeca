"""dvc.yaml as a whole: complete, described, its dependencies those of the code."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from aerialdreams.params import Params
from tests.conftest import ROOT

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
STAGES = {
    "raw-patches", "patch-index", "tiff-to-png", "lut-masks", "class-percentages", "osm-metadata",
    "captions", "dataset", "base-model", "encode-latents", "train-segmenter", "train-controlnet",
    "generate-validation", "evaluate-FID", "evaluate-utility", "report",
}  # fmt: skip
# What runs the work and decides no byte of what comes out.
PLUMBING = {
    "__init__",
    "download",
    "errors",
    "files",
    "parallel",
    "params",
    "processes",
    "progress",
    "stage",
    "tracking",
}


def outputs(stage: dict) -> list[str]:
    """What a stage writes that another may read."""
    named = [*stage.get("outs", []), *stage.get("plots", []), *stage.get("metrics", [])]
    return [out if isinstance(out, str) else next(iter(out)) for out in named]


@cache
def modules_of(path: Path) -> frozenset[str]:
    """Modules of `aerialdreams` that a file imports, and those that they import."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("aerialdreams."):
            name = str(node.module).split(".")[1]
            module = ROOT / "aerialdreams" / f"{name}.py"
            if name not in PLUMBING:
                found |= {name} | (modules_of(module) if module.exists() else set())
    return frozenset(found)


def test_every_stage_of_the_design_is_there() -> None:
    assert set(PIPELINE) == STAGES
    for name, stage in PIPELINE.items():
        assert stage["cmd"] == f"python -m stages.{name.replace('-', '_')}"
        assert len(stage["desc"]) > 20


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_stage_depends_on_the_code_that_it_runs(name: str) -> None:
    script = f"stages/{name.replace('-', '_')}.py"
    needed = modules_of(ROOT / script)
    if name == "train-controlnet":
        needed -= {"pictures"}  # only draws what MLflow shows
    named = {str(dep) for dep in PIPELINE[name]["deps"]}
    assert script in named
    code = {Path(dep).stem for dep in named if dep.startswith("aerialdreams/")}
    assert code == set(needed)


def test_params_that_stages_name_exist(params: Params) -> None:
    groups = set(type(params).model_fields)
    used = {key.split(".")[0] for stage in PIPELINE.values() for key in stage.get("params", [])}
    assert used == groups - {"runtime"}


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
        if dep == out or (dep == "${osm_metadata.extract}" and out == "data/raw")
    }
    assert drawn == edges


def test_stages_import_no_stage_and_the_package_no_stage() -> None:
    for path in [*ROOT.glob("stages/*.py"), *ROOT.glob("aerialdreams/**/*.py")]:
        assert not re.search(r"^(from|import) stages", path.read_text(), re.M), path
