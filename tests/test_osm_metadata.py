"""osm-metadata: real patches of ground in a real extract, and what cannot be read."""

from pathlib import Path

import pandas as pd
import pytest
from rasterio.warp import transform

from aerialdreams.errors import UserError
from aerialdreams.params import Params
from stages.osm_metadata import locate, read_extract

# A square in each of three complete communes of the extract, one in Èze, whose border the extract
# cuts, and one in the open sea: longitude, latitude.
PLACES = {
    "000001": (7.4247, 43.7466),  # Beausoleil, above the tennis club
    "000002": (7.4009, 43.7459),  # La Turbie, the Trophy of the Alps
    "000003": (7.4206, 43.7311),  # Monaco-Ville
    "000004": (7.3614, 43.7285),  # Èze, the old village
    "000005": (7.4550, 43.7150),  # the sea
}


@pytest.fixture
def located(shared: Path, params: Params) -> tuple[pd.DataFrame, list[str]]:
    x, y = transform("EPSG:4326", "EPSG:2154", *zip(*PLACES.values(), strict=True))
    index = pd.DataFrame(
        {
            "patch_id": list(PLACES),
            "origin_x": [value - 51.2 for value in x],
            "origin_y": [value + 51.2 for value in y],
        }
    )
    extract = read_extract(shared / "osm/monaco-2016.osm.pbf")
    return pd.DataFrame(locate(index, extract, params.osm_metadata)), extract.cut


def test_communes_of_a_real_extract(located: tuple[pd.DataFrame, list[str]]) -> None:
    rows = located[0].set_index("patch_id")
    assert rows.loc["000001", "commune"] == "Beausoleil"
    assert rows.loc["000001", "insee"] == "06012"
    assert rows.loc["000002", "commune"] == "La Turbie"
    assert rows.loc["000003", "commune"] == "Monaco"
    assert pd.isna(rows.loc["000004", "commune"])
    assert pd.isna(rows.loc["000005", "commune"])


def test_cut_boundaries_are_told(located: tuple[pd.DataFrame, list[str]]) -> None:
    assert {"Èze", "Roquebrune-Cap-Martin", "Alpes-Maritimes", "France"} <= set(located[1])
    assert "Beausoleil" not in located[1]


def test_roads_and_places_near_by(located: tuple[pd.DataFrame, list[str]], params: Params) -> None:
    rows = located[0].set_index("patch_id")
    assert rows.loc["000003", "road_distance"] < 50
    assert isinstance(rows.loc["000003", "road"], str)
    assert rows.loc["000004", "place"] == "Èze"
    assert rows.loc["000004", "place_kind"] == "village"
    assert rows.loc["000004", "place_distance"] < 300
    assert pd.isna(rows.loc["000005", "road"])  # no road in the sea
    assert rows["road_distance"].max() <= params.osm_metadata.max_road_distance


@pytest.mark.parametrize("content", [b"", b"nonsense" * 100, None])
def test_an_unreadable_extract_is_named(
    tmp_path: Path, shared: Path, content: bytes | None
) -> None:
    whole = (shared / "osm/monaco-2016.osm.pbf").read_bytes()
    path = tmp_path / "cut.osm.pbf"
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(UserError, match=r"cut\.osm\.pbf: not a whole OpenStreetMap file"):
        read_extract(path)


def test_a_missing_extract_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.osm\.pbf: not found; set osm_metadata\.extract"):
        read_extract(tmp_path / "no.osm.pbf")
