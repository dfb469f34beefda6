"""``python -m kdnb.projects.coco_alignment``; see ``kdnb.experiment.command``."""

from kdnb.experiment.command import command
from kdnb.projects.coco_alignment.experiment import CocoAlignment

main = command(CocoAlignment)

if __name__ == "__main__":
    main()
