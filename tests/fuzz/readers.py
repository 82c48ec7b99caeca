"""Random inputs for the readers of users' files, and what must hold for each.

Each check gives "accepted" if the reader returned what went in, or "refused" if it raised an error
of ours whose message names the file or the key. Anything else raises.
"""

import copy
import io
import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
import yaml
from hypothesis import strategies as st
from rasterio.errors import NotGeoreferencedWarning

from aerialdreams.data.land_cover import IGNORED, LandCoverClass, with_ids
from aerialdreams.data.mask_files import read_user_mask
from aerialdreams.data.metadata import read_metadata
from aerialdreams.data.pairs import read_pair_table
from aerialdreams.data.tiles import read_tile
from aerialdreams.errors import UserError
from aerialdreams.models.model_info import ModelInfo
from aerialdreams.osm.overpass import defect_of, elements_of
from aerialdreams.params import check_params, read_yaml
from tests.conftest import ROOT

CLASSES = with_ids(
    [
        LandCoverClass(name="a", colour="#ff0000", values=(0,)),
        LandCoverClass(name="b", colour="#00ff00", values=(7, 300)),
        LandCoverClass(name="c", colour="#0000ff", values=(-4, "#00ffff")),
    ]
)
ID_OF = {0: 0, 7: 7, 300: 7, -4: 3, 3: 3, 99: IGNORED}
COLOURS = {(255, 0, 0): 0, (0, 255, 0): 7, (0, 0, 255): 3, (0, 255, 255): 3, (1, 2, 3): IGNORED}
IGNORED_VALUES = (99, "#010203")
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
ANSWER = json.dumps(
    {
        "osm3s": {"timestamp_osm_base": "2026-01-01T00:00:00Z"},
        "elements": [
            {"type": "node", "id": 1, "lat": 43.7, "lon": 7.4, "tags": {"place": "village"}},
            {
                "type": "way",
                "id": 2,
                "geometry": [{"lat": 43.7, "lon": 7.4}, {"lat": 43.8, "lon": 7.4}],
                "tags": {"highway": "track", "name": "a"},
            },
            {"type": "relation", "id": 3, "members": [], "tags": {"admin_level": "8"}},
        ],
    }
)


class Reader(NamedTuple):
    """A strategy for inputs, and the check of one."""

    inputs: st.SearchStrategy[Any]
    check: Callable[[Any], str]


class Damage(NamedTuple):
    """Bytes of a file that are cut off or changed."""

    keep: float  # share of the file
    flips: list[tuple[float, int]]  # position as a share, new byte

    def apply(self, path: Path) -> None:
        content = bytearray(path.read_bytes())
        del content[round(len(content) * self.keep) :]
        for at, byte in self.flips if content else []:
            content[min(int(at * len(content)), len(content) - 1)] = byte
        path.write_bytes(content)


SHARE = st.floats(0, 1, width=32)
DAMAGE = st.builds(
    Damage,
    st.one_of(st.just(1.0), SHARE),
    st.lists(st.tuples(SHARE, st.integers(0, 255)), max_size=3),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


def refused(error: Exception, *names: str) -> str:
    """An error that names what it is about, in a few lines."""
    assert any(name in str(error) for name in names), error
    return "refused"


class MaskFile(NamedTuple):
    """A mask to write."""

    dtype: str
    driver: str
    values: list[int]  # indices into the values that the type holds
    unknown: bool  # whether one pixel has a value that stands for nothing
    nodata: bool
    compress: str
    colours: bool
    damage: Damage | None


MASKS = st.builds(
    MaskFile,
    st.sampled_from(DTYPES),
    st.sampled_from(["GTiff", "PNG", "ENVI", "COG"]),
    st.lists(st.integers(0, 10), min_size=4, max_size=40),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["NONE", "DEFLATE", "LZW", "ZSTD", "LZMA"]),
    st.booleans(),
    st.none() | DAMAGE,
)


def check_mask(mask: MaskFile) -> str:
    """Ids that go in come out; others are refused."""
    side = max(2, int(len(mask.values) ** 0.5))
    flat = [mask.values[i % len(mask.values)] for i in range(side * side)]
    if mask.colours:
        table = list(COLOURS)
        chosen = [table[i % len(table)] for i in flat]
        bands = np.array(chosen, np.uint8).T.reshape(3, side, side)
        expected = np.array([COLOURS[colour] for colour in chosen]).reshape(side, side)
        nodata = None
    else:
        info: Any = np.iinfo(mask.dtype) if mask.dtype[0] != "f" else np.finfo(mask.dtype)
        fitting = [value for value in ID_OF if info.min <= value <= info.max]
        chosen_ids = [fitting[i % len(fitting)] for i in flat]
        expected = np.array([ID_OF[value] for value in chosen_ids]).reshape(side, side)
        nodata = 55 if mask.nodata else None
        if mask.unknown or mask.nodata:
            chosen_ids[0] = 55
            expected[0, 0] = IGNORED
        bands = np.array(chosen_ids).astype(mask.dtype).reshape(1, side, side)
    is_valid = mask.colours or not mask.unknown or mask.nodata
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        path = Path(name) / "mask"
        profile = {"count": len(bands), "height": side, "width": side, "dtype": bands.dtype}
        if mask.driver in ("GTiff", "COG") and mask.compress != "NONE":
            profile["compress"] = mask.compress
        try:
            with rasterio.open(path, "w", mask.driver, nodata=nodata, **profile) as file:
                file.write(bands)
        except Exception:  # GDAL's, of many classes
            return "not written"  # a driver without this type
        with rasterio.open(path) as file:
            if file.dtypes[0] != bands.dtype:  # ENVI has no signed bytes and says nothing
                return "not written"
        if mask.damage:
            mask.damage.apply(path)
        try:
            read = read_user_mask(path, CLASSES, 0.0, IGNORED_VALUES)
        except UserError as error:
            assert mask.damage or not is_valid or (expected == IGNORED).all(), error
            return refused(error, str(path))
        if mask.damage:  # pixels may have changed, but only to other ids
            assert set(np.unique(read.class_ids)) <= {0, 3, 7, IGNORED}
            return "accepted"
        assert is_valid
        assert np.array_equal(read.class_ids, expected)
        return "accepted"


def check_tile(damage: Damage) -> str:
    """A damaged tile is read or named."""
    tile = next((ROOT / "tests/data/flair").rglob("MSK_*.tif"))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "MSK_000001.tif"
        path.write_bytes(tile.read_bytes())
        damage.apply(path)
        try:
            read_tile(path)
        except UserError as error:
            return refused(error, str(path))
        return "accepted"


def check_metadata(content: bytes) -> str:
    """Metadata that is read has the fields that stages use, as text."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "metadata.json"
        path.write_bytes(content)
        try:
            metadata = read_metadata(path)
        except UserError as error:
            return refused(error, str(path))
        for entry in metadata.values():
            assert all(isinstance(entry.get(k), str | None) for k in ("date", "time", "camera"))
        return "accepted"


METADATA = st.binary(max_size=30) | st.dictionaries(
    st.sampled_from(["IMG_000001", "IMG_000002", ""]),
    JSON | st.fixed_dictionaries({"date": JSON | st.just("2021-07-30"), "camera": JSON}),
).map(lambda value: json.dumps(value).encode())


def change_params(path: list[int], value: Any) -> dict[str, Any]:
    """The project's params with another value at a place that the numbers lead to."""
    params = copy.deepcopy(PARAMS)
    place: Any = params
    for number in path:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = keys[number % len(keys)]
        if not isinstance(place[key], dict | list) or number == path[-1]:
            place[key] = value
            break
        place = place[key]
    return params


def check_changed_params(change: tuple[list[int], Any]) -> str:
    """Params with a changed value are valid, or each problem is one line with its key."""
    path = Path("params.yaml")
    try:
        check_params(change_params(*change), path)
    except UserError as error:
        assert all(line.startswith("params.yaml: ") for line in str(error).splitlines()), error
        return "refused"
    return "accepted"


def check_yaml(content: bytes) -> str:
    """A file that is no YAML is named."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "params.yaml"
        path.write_bytes(content)
        try:
            check_params(read_yaml(path), path)
        except UserError as error:
            return refused(error, str(path))
        return "accepted"


def check_answer(content: bytes) -> str:
    """A response of an Overpass server has elements, or a defect."""
    if defect_of(content):
        return "refused"
    elements_of(content)
    return "accepted"


def damaged_text(text: str) -> st.SearchStrategy[bytes]:
    """A text with a part replaced by another."""
    return st.builds(
        lambda at, size, new: (
            text[: int(at * len(text))] + new + text[int(at * len(text)) + size :]
        ).encode(),
        SHARE,
        st.integers(0, 20),
        st.text(max_size=4) | st.sampled_from(["null", "[]", "{}", "1e999", "NaN", '"x"', "-1"]),
    )


def check_table(content: bytes) -> str:
    """A table of pairs is read or named."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for file in ("a.tif", "b.tif"):
            (root / file).touch()
        path = root / "list.csv"
        path.write_bytes(content)
        try:
            read_pair_table(path, root)
        except UserError as error:
            return refused(error, name)
        return "accepted"


def check_model_info(content: bytes) -> str:
    """A model's info is read or named."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "aerialdreams.json").write_bytes(content)
        try:
            ModelInfo.load(Path(name))
        except UserError as error:
            return refused(error, name)
        return "accepted"


INFO = json.dumps(
    {
        "image_size": 96,
        "pixel_size_metres": 0.2,
        "conditioning": {
            "encoding": "one_hot",
            "classes": [row.model_dump(mode="json") for row in CLASSES],
        },
        "sampling": PARAMS["train_controlnet"]["sampling"],
        "ignored": [255],
        "credit": "© a",
    }
)
TABLE = io.StringIO("image,mask,group,date\na.tif,b.tif,x,2021-07-30\nb.tif,a.tif,,\n").getvalue()

READERS: dict[str, Reader] = {
    "masks": Reader(MASKS, check_mask),
    "tiles": Reader(DAMAGE, check_tile),
    "metadata": Reader(METADATA, check_metadata),
    "params": Reader(
        st.tuples(st.lists(st.integers(0, 50), min_size=1, max_size=4), JSON), check_changed_params
    ),
    "yaml": Reader(st.binary(max_size=40) | damaged_text("a: [1, {b: c}]\n"), check_yaml),
    "overpass": Reader(st.binary(max_size=40) | damaged_text(ANSWER), check_answer),
    "tables": Reader(st.binary(max_size=40) | damaged_text(TABLE), check_table),
    "models": Reader(damaged_text(INFO), check_model_info),
}
