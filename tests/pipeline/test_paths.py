"""The paths of outputs in the code are those in dvc.yaml."""

from pathlib import Path

import yaml

from aerialdreams import paths
from tests.conftest import ROOT


def test_every_output_in_dvc_yaml_has_its_path_in_the_code() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    outputs = {
        out if isinstance(out, str) else next(iter(out))
        for stage in stages.values()
        for kind in ("outs", "metrics", "plots")
        for out in stage.get(kind, [])
    }
    values = [*vars(paths).values(), *paths.IOU_TABLES.values()]
    assert {path.as_posix() for path in values if isinstance(path, Path)} == outputs
