from kdnb.projects.toy_crops.experiment import ToyCrops

from kdnb.experiment.command import command

if __name__ == "__main__":
    command(ToyCrops)()
