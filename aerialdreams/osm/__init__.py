"""What OpenStreetMap knows of FLAIR's zones, from an extract or from an Overpass server.

A zone's elements come from `extract` or `overpass`, which select the same; `knowledge` says what
they mean, and `join` which patch they concern.
"""
