"""``python -m kdnb.projects.camvid_prompt_kd``; see ``kdnb.experiment.command``."""

from kdnb.experiment.command import command
from kdnb.projects.camvid_prompt_kd.experiment import CamVidPromptKd

main = command(CamVidPromptKd)

if __name__ == "__main__":
    main()
