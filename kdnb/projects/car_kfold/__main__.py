"""``python -m kdnb.projects.car_kfold``; see ``kdnb.experiment.command``."""

from kdnb.experiment.command import command
from kdnb.projects.car_kfold.experiment import CarKfold

main = command(CarKfold)

if __name__ == "__main__":
    main()
