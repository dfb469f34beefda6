"""``python -m kdnb.projects.primer``; see ``kdnb.experiment.command``."""

from kdnb.experiment.command import command
from kdnb.projects.primer.experiment import Primer

main = command(Primer)

if __name__ == "__main__":
    main()
