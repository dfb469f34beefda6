"""CamVid's 32 classes with their colours, and the 11 that SegNet makes of them."""

CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
VOID = 11  # the id of what belongs to none of them

# Brostow, Fauqueur, Cipolla: Semantic object classes in video, Pattern Recognition Letters 30(2), 2009; the RGB values
# are those of label_colors.txt in the original release.
COLOURS = {
    "Animal": (64, 128, 64),
    "Archway": (192, 0, 128),
    "Bicyclist": (0, 128, 192),
    "Bridge": (0, 128, 64),
    "Building": (128, 0, 0),
    "Car": (64, 0, 128),
    "CartLuggagePram": (64, 0, 192),
    "Child": (192, 128, 64),
    "Column_Pole": (192, 192, 128),
    "Fence": (64, 64, 128),
    "LaneMkgsDriv": (128, 0, 192),
    "LaneMkgsNonDriv": (192, 0, 64),
    "Misc_Text": (128, 128, 64),
    "MotorcycleScooter": (192, 0, 192),
    "OtherMoving": (128, 64, 64),
    "ParkingBlock": (64, 192, 128),
    "Pedestrian": (64, 64, 0),
    "Road": (128, 64, 128),
    "RoadShoulder": (128, 128, 192),
    "Sidewalk": (0, 0, 192),
    "SignSymbol": (192, 128, 128),
    "Sky": (128, 128, 128),
    "SUVPickupTruck": (64, 128, 192),
    "TrafficCone": (0, 0, 64),
    "TrafficLight": (0, 64, 64),
    "Train": (192, 64, 128),
    "Tree": (128, 128, 0),
    "Truck_Bus": (192, 128, 192),
    "Tunnel": (64, 0, 64),
    "VegetationMisc": (192, 192, 0),
    "Void": (0, 0, 0),
    "Wall": (64, 192, 0),
}

# The grouping of SegNet (Badrinarayanan, Kendall, Cipolla, arXiv 1511.00561) after Sturgess et al., BMVC 2009, class by
# class as MathWorks' example "Semantic Segmentation Using Deep Learning" lists it. The other protocol of 11 classes
# (DDRNet, PIDNet) ignores 21 of the 32 instead of merging them: its scores do not compare with these.
SEGNET_GROUPS = {
    "Sky": "sky",
    "Building": "building",
    "Bridge": "building",
    "Wall": "building",
    "Tunnel": "building",
    "Archway": "building",
    "Column_Pole": "pole",
    "TrafficCone": "pole",
    "Road": "road",
    "LaneMkgsDriv": "road",
    "LaneMkgsNonDriv": "road",
    "Sidewalk": "pavement",
    "ParkingBlock": "pavement",
    "RoadShoulder": "pavement",
    "Tree": "tree",
    "VegetationMisc": "tree",
    "SignSymbol": "sign",
    "Misc_Text": "sign",
    "TrafficLight": "sign",
    "Fence": "fence",
    "Car": "car",
    "SUVPickupTruck": "car",
    "Truck_Bus": "car",
    "Train": "car",
    "OtherMoving": "car",
    "Pedestrian": "pedestrian",
    "Child": "pedestrian",
    "CartLuggagePram": "pedestrian",
    "Animal": "pedestrian",
    "Bicyclist": "bicyclist",
    "MotorcycleScooter": "bicyclist",
    "Void": "void",
}


def class_id(name: str) -> int:
    """Id of one of the 11 classes, or of "void"."""
    return VOID if name == "void" else CLASSES.index(name)
