from kdnb.projects.toy_crops.experiment import ToyCrops

from kdnb.experiment.command import command

command(ToyCrops)()
