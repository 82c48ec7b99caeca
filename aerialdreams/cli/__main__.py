"""`python -m aerialdreams.cli`."""

from aerialdreams.cli import main

main()
