"""captions: golden sentences, on real patches' classes and on names of all kinds."""

import csv
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from aerialdreams.errors import UserError
from aerialdreams.params import Params
from aerialdreams.paths import CAPTIONS
from aerialdreams.util.tables import read_table
from stages import captions, class_percentages, osm_metadata
from tests.conftest import changed
from tests.osm.test_osm_metadata import of_extract, recorded_patches, write_index

PLACE = {
    "road": "Rue Molière",
    "quartier": None,
    "commune": "La Roche-sur-Yon",
    "arrondissement": "La Roche-sur-Yon",
    "departement": "Vendée",
    "region": "Pays de la Loire",
    "metropole": "France métropolitaine",
    "postcode": "85000",
    "country": "France",
    "place": "Le Bourg",
    "features": [("amenity=school", 1), ("landuse=grass", 4), ("natural=tree_row", 4)],
    "waterways": ["L'Yon"],
}
NOTHING: dict[str, Any] = {"features": [], "waterways": []}
PATCH = {"patch_id": "076201", "split": "test", "date": "2019-09-02"}


def one(
    params: Params, shares: dict[str, float], where: dict[str, Any], *sentences: str, **more: Any
) -> str:
    """A patch's caption by the default params, or by others."""
    templates = {"templates": [list(sentences)]} if sentences else {}
    stage = changed(params, captions=templates | more).captions
    return captions.fill(stage.templates[0], captions.fields_of(PATCH, shares, where, stage))


def published(shared: Path, number: str, params: Params) -> dict[str, float]:
    """A real patch's shares, of all classes in the order of their ids."""
    text = (shared / f"validation/MSK_{number}_seg.json").read_text()
    shares = json.loads(text)["class_repartition"]
    return {c.name: shares.get(c.name, 0.0) for c in params.classes}


def test_a_real_patch(shared: Path, params: Params) -> None:
    shares = published(shared, "076201", params)
    assert one(params, shares, PLACE) == (
        "Aerial view of Rue Molière, La Roche-sur-Yon, Vendée, Pays de la Loire, France. building,"
        " impervious surface, herbaceous vegetation, deciduous."
    )
    assert one(params, shares, PLACE, amounts="numbers", most_classes=2).endswith(
        "France. building 48%, impervious surface 35%."
    )
    assert one(params, shares, PLACE, amounts="words").endswith(
        "half building, much impervious surface, some herbaceous vegetation, a little deciduous."
    )


def test_the_form_of_the_first_aerialdreams(shared: Path, params: Params) -> None:
    """Its place is Nominatim's address; classes it had in no order, ours go by area."""
    for number in ("066278", "067998", "076201"):
        check_form(shared, params, number)


def check_form(shared: Path, params: Params, number: str) -> None:
    theirs = json.loads((shared / f"validation/MSK_{number}.json").read_text())
    address = theirs["address"]
    where = NOTHING | {
        "road": address.get("road"),
        "commune": address.get("village") or address.get("town") or address.get("city"),
        "arrondissement": address["municipality"],
        "departement": address["county"],
        "region": address["state"],
        "metropole": address["region"],
        "postcode": address["postcode"],
        "country": address["country"],
    }
    levels = ["road", "commune", "arrondissement", "departement", "region", "metropole"]
    ours = one(
        params,
        published(shared, number, params),
        where,
        place=[*levels, "postcode", "country"],
        floor_percent=0,
    )
    form = re.fullmatch(r"Aerial view of (.+?)\. ([^.]+)\.", ours)
    assert form is not None
    seen = json.loads((shared / f"validation/MSK_{number}_seg.json").read_text())
    assert set(form[2].split(", ")) == set(seen["class_repartition"])
    # Nominatim also named a house number and two quarters, which the three addresses lack or have.
    expected = theirs["display_name"].replace("31, ", "").replace("Sacré Cœur, Pyramides, ", "")
    assert form[1] == expected


def test_names_of_all_scripts(params: Params) -> None:
    named = {
        "road": 'Impasse "Le Chat d\'Oc"',
        "commune": "東京都",
        "departement": "الجزائر",
        "region": "Le\u0301ge",
        "country": "Lége",
    }
    assert one(params, {"water": 1.0}, NOTHING | named) == (
        'Aerial view of Impasse "Le Chat d\'Oc", 東京都, الجزائر, Lége, Lége. water.'
    )


def test_at_sea_and_under_the_floor(params: Params) -> None:
    assert one(params, {"building": 0.0, "water": 1.0}, NOTHING) == "Aerial view of France. water."
    few = {"water": 0.004, "snow": 0.005}
    assert one(params, few, NOTHING) == "Aerial view of France. snow."


def test_twelve_classes_equal_areas_by_id(params: Params) -> None:
    shares = {c.name: 1 / 12 if number < 12 else 0.0 for number, c in enumerate(params.classes)}
    expected = ", ".join(c.name for c in params.classes[:12])
    assert one(params, shares, NOTHING) == f"Aerial view of France. {expected}."


def test_a_sentence_without_its_field_is_left_out(params: Params) -> None:
    sentences = [
        "{classes} near {commune}.",
        "In {season}, {month}, on {date}.",
        "With {features}.",
    ]
    shares = {"water": 1.0}
    assert one(params, shares, PLACE, *sentences) == (
        "water near La Roche-sur-Yon. In autumn, September 2019, on 2019-09-02."
        " With L'Yon, grass, tree row."
    )
    assert one(params, shares, NOTHING, *sentences) == "In autumn, September 2019, on 2019-09-02."
    near = one(params, shares, PLACE, "Near {nearest_place}.")
    assert near == "Near Le Bourg."
    wide = one(params, shares, PLACE, "{place}.", place=["arrondissement", "commune", "country"])
    assert wide == "La Roche-sur-Yon, France."


def test_variants_are_spread_and_stay(params: Params) -> None:
    drawn = [captions.choice(5, f"{number:06}", 3) for number in range(3000)]
    assert all(900 < count < 1100 for count in Counter(drawn).values())
    assert drawn == [captions.choice(5, f"{number:06}", 3) for number in range(3000)]
    assert drawn != [captions.choice(6, f"{number:06}", 3) for number in range(3000)]


@pytest.fixture
def located(workdir: Path, params: Params) -> Params:
    """Patches on invented ground, in an index of their own with one of each split."""
    ready = of_extract(params)
    patches = [p for p in recorded_patches() if p[0][2:] in ("0505", "0909", "0000")]
    write_index(patches, splits=True)
    osm_metadata.main(ready)
    class_percentages.main(ready)
    return ready


def test_the_stage_on_invented_ground(located: Params) -> None:
    two = changed(located, captions={"templates": [["{place}."], ["In {commune}.", "{classes}."]]})
    summary = captions.main(two)
    assert summary.startswith("12 captions, ")
    assert "at least 0 are longer than CLIP's 77 tokens" in summary
    rows = read_table(CAPTIONS).set_index("patch_id")
    assert rows.loc["000505", "variants"].tolist() == [
        "Rue 3 (two-communes), Valbrune, Alpes-du-Large, Rivage-et-Alpes, France.",
        "In Valbrune. building.",
    ]
    table = list(csv.DictReader(captions.CAPTIONS_TABLE.open(encoding="utf-8")))
    assert [row["patch_id"] for row in table] == rows.index.tolist()
    for row in table:
        first, second = rows.loc[row["patch_id"], "variants"]
        assert row["caption"] == rows.loc[row["patch_id"], "caption"]
        assert row["caption"] in ((first, second) if row["split"] == "train" else (first,))
    page = captions.ZONES_PAGE.read_text(encoding="utf-8")
    assert "12 patches in 4 zones" in page and "OpenStreetMap contributors, ODbL 1.0" in page
    assert page.count("<rect ") == 12 and "Valbrune</p>" in page


def test_long_captions_are_counted(located: Params) -> None:
    long = changed(located, captions={"templates": [["{place} " * 20 + "{classes}"]]})
    counted = re.search(r"at least (\d+) are longer", captions.main(long))
    assert counted is not None and int(counted[1]) == 9  # the others are at sea


def test_tables_of_other_patches_are_refused(located: Params) -> None:
    write_index(recorded_patches()[:5], splits=True)
    with pytest.raises(UserError, match=r"class_percentages\.parquet: is of other patches"):
        captions.main(located)
    Path("data/class_percentages.parquet").unlink()
    with pytest.raises(UserError, match=r"class_percentages\.parquet: not found; run `dvc repro`"):
        captions.main(located)
