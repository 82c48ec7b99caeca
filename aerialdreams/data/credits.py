"""Credits owed for the data."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # see tables
    pass

IGN_CREDIT = "FLAIR #1 © IGN, Licence Ouverte 2.0 (Etalab)"


OSM_CREDIT = "© OpenStreetMap contributors, ODbL 1.0"
