"""``python -m kdnb.projects.voc_defeat``; see ``kdnb.experiment.command``."""

from kdnb.experiment.command import command
from kdnb.projects.voc_defeat.experiment import VocDefeat

main = command(VocDefeat)

if __name__ == "__main__":
    main()
