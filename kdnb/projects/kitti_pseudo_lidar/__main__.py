"""``python -m kdnb.projects.kitti_pseudo_lidar``; see ``kdnb.experiment.command``."""

from kdnb.experiment.command import command
from kdnb.projects.kitti_pseudo_lidar.experiment import KittiPseudoLidar

main = command(KittiPseudoLidar)

if __name__ == "__main__":
    main()
