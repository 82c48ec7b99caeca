"""Credits that everything derived from FLAIR or OpenStreetMap must carry."""

IGN_CREDIT = "FLAIR #1 © IGN, Licence Ouverte 2.0 (Etalab)"
OSM_CREDIT = "© OpenStreetMap contributors, ODbL 1.0"
