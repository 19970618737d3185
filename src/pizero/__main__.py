"""`python -m pizero` is the command `pizero`."""

from pizero.cli import main

main()
