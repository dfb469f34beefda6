"""``python -m kdnb.cli``: the command ``kdnb`` of the Python that runs it."""

from kdnb.cli import main

main()
