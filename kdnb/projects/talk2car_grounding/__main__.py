"""``python -m kdnb.projects.talk2car_grounding``; see ``kdnb.experiment.command``."""

from kdnb.experiment.command import command
from kdnb.projects.talk2car_grounding.experiment import Talk2CarGrounding

main = command(Talk2CarGrounding)

if __name__ == "__main__":
    main()
