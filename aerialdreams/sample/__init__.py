"""The sample world: a small invented France, drawn from a seed in FLAIR's shape.

Only `stages/raw_patches.py` draws it; it stands here because it is larger than a stage should be.
`land` lays out a zone, `photograph` gives it colours, light and heights, and `ground` is the
same ground as OpenStreetMap would have it.
"""
