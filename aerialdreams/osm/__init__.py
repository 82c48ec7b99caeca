"""OpenStreetMap data for FLAIR's zones, from an extract or from an Overpass server.

`zones` groups the patches by zone. `extract` and `overpass` are the two sources of a zone's
elements and select the same ones. `features` classifies them by their tags, and `join` assigns the
features to patches.
"""
