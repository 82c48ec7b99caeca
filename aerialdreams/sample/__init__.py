"""The sample data: a small invented landscape in FLAIR's format, drawn from a seed.

`world` writes its tiles. `land` lays out a zone, `photograph` renders it, and `openstreetmap`
writes an extract of its boundaries, places and roads. Only the stage raw-patches uses them.
"""
