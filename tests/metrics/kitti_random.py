"""Random KITTI frames: objects of all types at 5-70 m, and the detections of a middling detector."""

import math

import numpy as np

from kdnb.datasets.kitti_labels import KittiLabel, write_labels

FOCAL, CENTRE = 720.0, (620.0, 187.0)
SIZES = {
    "Car": (1.5, 1.6, 3.9),
    "Van": (2.2, 1.9, 5.0),
    "Truck": (3.2, 2.6, 10.0),
    "Pedestrian": (1.75, 0.65, 0.85),
    "Person_sitting": (1.3, 0.6, 0.8),
    "Cyclist": (1.7, 0.6, 1.75),
}
SHARES = (0.45, 0.1, 0.05, 0.2, 0.08, 0.12)


def make(kind, size, place, turn, truncated=0.0, occluded=0, score=None):
    """A label whose 2D box is a pinhole's view of a box of that height and width."""
    (h, w, length), (x, y, z) = size, place
    width = abs(length * math.cos(turn)) + abs(w * math.sin(turn))
    u, v = CENTRE[0] + FOCAL * x / z, CENTRE[1] + FOCAL * y / z
    box = (u - FOCAL * width / z / 2, v - FOCAL * h / z, u + FOCAL * width / z / 2, v)
    alpha = turn - math.atan2(x, z)
    return KittiLabel(kind, truncated, occluded, alpha, box, h, w, length, x, y, z, turn, score)


def random_object(rng):
    kind = str(rng.choice(list(SIZES), p=SHARES))
    size = tuple(s * rng.uniform(0.9, 1.1) for s in SIZES[kind])
    z = rng.uniform(5, 70)
    place = (rng.uniform(-0.6, 0.6) * z, rng.normal(1.65, 0.1), z)
    turn = rng.uniform(-math.pi, math.pi)
    truncated = float(rng.choice([0, 0, 0, 0.15, 0.2, 0.4, 0.6]))
    return make(kind, size, place, turn, truncated, int(rng.choice([0, 0, 0, 1, 2, 3])))


def dont_care(rng):
    left, top = rng.uniform(0, 1000), rng.uniform(100, 200)
    box = (left, top, left + rng.uniform(50, 250), top + rng.uniform(30, 150))
    return KittiLabel("DontCare", -1, -1, -10, box, -1, -1, -1, -1000, -1000, -1000, -10)


def detection_of(rng, truth, noise, score):
    """A detection near an object, of the wrong class at times."""
    kind = truth.type if rng.random() < 0.9 else str(rng.choice(list(SIZES)))
    size = tuple(s * math.exp(rng.normal(0, 0.05 * noise)) for s in (truth.height, truth.width, truth.length))
    shift = rng.normal(0, (0.15 * noise, 0.05 * noise, 0.2 * noise))
    place = (truth.x + shift[0], truth.y + shift[1], truth.z + shift[2])
    turn = truth.rotation_y + rng.normal(0, 0.1 * noise) + math.pi * (rng.random() < 0.1)
    return make(kind, size, place, turn, -1, -1, score)


def random_frames(seed, frames, objects=8, detections=9, noise=1.0, ties=True):
    """``(ground truth, detections)``, each {frame: [KittiLabel]}, with about that many objects and detections a frame.

    ties: scores have two decimals only, so that many are equal.
    """
    rng = np.random.default_rng(seed)
    truth, found = {}, {}
    for k in range(frames):
        real = [random_object(rng) for _ in range(rng.integers(0, 2 * objects + 1))]
        real += [dont_care(rng) for _ in range(rng.integers(0, 3))]
        targets = [label for label in real if label.type != "DontCare"]
        guesses = []
        for _ in range(rng.integers(0, 2 * detections + 1)):
            near = bool(targets) and rng.random() < 0.75
            base = targets[rng.integers(len(targets))] if near else random_object(rng)
            score = rng.normal(1.0 if near else 0.0, 1.0)
            guesses.append(detection_of(rng, base, noise, round(score, 2) if ties else score))
        order = rng.permutation(len(real))
        truth[f"{k:06d}"] = [real[i] for i in order]
        found[f"{k:06d}"] = guesses
    return truth, found


def write_frames(folder, frames):
    folder.mkdir(parents=True)
    for name, labels in frames.items():
        write_labels(folder / f"{name}.txt", labels)
