"""The credit that everything derived from OpenStreetMap must carry; datasets name their own."""

OSM_CREDIT = "© OpenStreetMap contributors, ODbL 1.0"
