"""params.yaml: what is wrong with it is said by key, before any work."""

import re
from pathlib import Path

import pytest
import yaml

from aerialdreams.errors import UserError
from aerialdreams.params import Params, flatten, load_params
from tests.conftest import ROOT


def load_changed(tmp_path: Path, *path: str, value: object = None, remove: bool = False) -> Params:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    place = values
    for key in path[:-1]:
        place = place[key]
    if remove:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    return load_params(file)


def test_the_projects_own_params_are_valid() -> None:
    params = load_params(ROOT / "params.yaml")
    assert params.classes[0].name == "building"
    assert params.classes[17].rgb == (0x99, 0x99, 0xFF)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("captions", "flor_percent"), 1, r"captions\.flor_percent: unknown key"),
        (("compose_masks", "shares"), {"sea": 3}, r"compose_masks\.shares: has sea, which"),
        (("compose_masks", "masks"), 3, r"compose_masks: shares: is empty; name"),
        (("train_controlnet", "steps"), 0, r"train_controlnet\.steps: is 0; .*greater than"),
        (("raw_patches", "source"), "ftp", r"raw_patches\.source: is 'ftp'; .*'sample'"),
        (("captions", "templates"), [["{town}"]], r"captions\.templates: .* no field 'town'; "),
        (("patch_index", "test_groups"), ["D014_2020"], r"patch_index: D014_2020: in both"),
        (("train_controlnet", "processes"), 3, r"train_controlnet: batch_size: is 8; must be"),
        (("train_controlnet", "augment"), True, r"augment: is true; set encode_latents\.all_or"),
        (("image_size",), 100, r"image_size: is 100; .*multiple of 16"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(
    tmp_path: Path, path: tuple[str, ...], value: object, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_changed(tmp_path, *path, value=value)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"captions\.templates: missing"):
        load_changed(tmp_path, "captions", "templates", remove=True)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["imagesize"] = 1
    values["captions"]["floor_percent"] = 200
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=r"(?s)floor_percent: is 200.*imagesize: unknown key"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("classes", slice(0, 1), r"dataset_spec\.classes: .*at least 2"),
        ("classes", {"colour": "#db0e9a"}, r"colour '#db0e9a' is used twice, by building and more"),
        ("classes", {"values": [3]}, r"id 3 is used twice, by impervious surface and more"),
        ("classes", {"values": [300, 4]}, r"id 4 is used twice, by bare soil and more"),
        ("published_percentages", [1.0], r"published_percentages: 1 entries for 19 classes"),
        ("ignored", [7], r"ignored: 7 is a class's value"),
        ("value_range", [255, 0], r"value_range: \[255.0, 0.0\] is not ascending"),
        ("crs", "EPSG:4326", r"'EPSG:4326' is not a projected CRS"),
        ("crs", "EPSG:99", r"'EPSG:99' is not a CRS that PROJ knows"),
    ],
)
def test_a_dataset_spec_that_contradicts_itself(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    table = yaml.safe_load((ROOT / "params.yaml").read_text())["dataset_spec"]["classes"]
    if isinstance(value, slice):
        value = table[value]
    elif isinstance(value, dict):
        value = [*table, {"name": "more", "colour": "#123456"} | value]
    with pytest.raises(UserError, match=message):
        load_changed(tmp_path, "dataset_spec", key, value=value)


def test_the_first_number_among_a_classs_values_is_its_id(tmp_path: Path) -> None:
    rows = [
        {"name": "no building", "colour": "#ffffff", "values": [0]},
        {"name": "building", "colour": "#000000", "values": [255, "#ff0000"]},
        {"name": "road", "colour": "#00ff00", "values": [7, 8]},
    ]
    spec = yaml.safe_load((ROOT / "params.yaml").read_text())["dataset_spec"]
    spec |= {"classes": rows, "published_percentages": []}
    params = load_changed(tmp_path, "dataset_spec", value=spec)
    assert [row.id for row in params.classes] == [0, 2, 7]


def test_no_file_and_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not found; run from the project's root"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("captions: [")
    with pytest.raises(UserError, match="not valid YAML"):
        load_params(tmp_path / "params.yaml")


def test_flat_names_are_those_of_dvc(params: Params) -> None:
    flat = flatten(params)
    assert flat["base_model.tiny.unet.steps"] == params.base_model.tiny.unet.steps
    assert all(re.fullmatch(r"[\w.]+", key) for key in flat)


def test_a_file_that_is_not_utf8_is_one_message(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(b"# one\n# r\xe9glages\n" + (ROOT / "params.yaml").read_bytes())
    with pytest.raises(UserError, match=r"params\.yaml: line 2 is not UTF-8; save the file"):
        load_params(path)
    path.write_bytes(b"\xef\xbb\xbf" + (ROOT / "params.yaml").read_bytes().replace(b"\n", b"\r\n"))
    assert load_params(path) == load_params(ROOT / "params.yaml")
