"""`python -m search.cli` is `shoebox`."""

from search.cli import main

main()
