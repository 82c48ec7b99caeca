"""`aerialdreams serve`: a local page and HTTP API to draw masks and generate images."""
