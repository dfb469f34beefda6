"""Colours with names, and the looks (light, sky, haze, facades) of which test streets have their own."""

from dataclasses import dataclass
from typing import Any

import numpy as np

CAR_COLOURS = {
    "red": (0.72, 0.08, 0.08),
    "blue": (0.10, 0.22, 0.62),
    "white": (0.88, 0.88, 0.86),
    "black": (0.07, 0.07, 0.08),
    "silver": (0.58, 0.60, 0.62),
    "green": (0.08, 0.38, 0.18),
    "yellow": (0.90, 0.72, 0.08),
    "orange": (0.88, 0.38, 0.05),
    "brown": (0.33, 0.20, 0.12),
}
CLOTHES = {
    "red": (0.75, 0.12, 0.12),
    "blue": (0.13, 0.25, 0.65),
    "white": (0.90, 0.90, 0.88),
    "black": (0.09, 0.09, 0.10),
    "grey": (0.45, 0.46, 0.48),
    "green": (0.12, 0.45, 0.22),
    "yellow": (0.92, 0.78, 0.12),
    "orange": (0.92, 0.42, 0.08),
    "pink": (0.88, 0.45, 0.58),
    "purple": (0.40, 0.20, 0.50),
}
TROUSERS = {
    "navy": (0.10, 0.13, 0.28),
    "black": (0.08, 0.08, 0.09),
    "beige": (0.62, 0.54, 0.40),
    "grey": (0.32, 0.33, 0.35),
    "blue": (0.22, 0.33, 0.55),
}
SKIN = ((0.90, 0.70, 0.58), (0.80, 0.58, 0.44), (0.60, 0.40, 0.28), (0.38, 0.25, 0.18))
HAIR = ((0.10, 0.07, 0.05), (0.30, 0.18, 0.09), (0.70, 0.52, 0.25), (0.50, 0.48, 0.46))
DOGS = {
    "brown": (0.45, 0.26, 0.12),
    "black": (0.09, 0.08, 0.08),
    "white": (0.86, 0.83, 0.77),
    "golden": (0.78, 0.55, 0.25),
}
LEAVES = ((0.20, 0.40, 0.12), (0.30, 0.46, 0.14), (0.14, 0.33, 0.14), (0.38, 0.48, 0.16))
TYRE, GLASS, CHROME = (0.05, 0.05, 0.055), (0.10, 0.13, 0.16), (0.55, 0.57, 0.60)
STEEL, WOOD_BROWN, BARK = (0.33, 0.35, 0.37), (0.47, 0.30, 0.16), (0.28, 0.20, 0.14)

# Facades: (wall, trim). No palette and no range below is shared between training and test streets.
FACADES = {
    "train": {
        "brick": ((0.52, 0.25, 0.18), (0.82, 0.79, 0.72)),
        "cream": ((0.82, 0.75, 0.58), (0.92, 0.90, 0.84)),
        "sand": ((0.70, 0.60, 0.44), (0.85, 0.80, 0.70)),
        "grey": ((0.55, 0.56, 0.58), (0.80, 0.80, 0.80)),
        "sky blue": ((0.50, 0.62, 0.72), (0.90, 0.90, 0.90)),
        "olive": ((0.52, 0.54, 0.38), (0.85, 0.83, 0.72)),
    },
    "test": {
        "terracotta": ((0.74, 0.42, 0.26), (0.90, 0.84, 0.74)),
        "mint": ((0.56, 0.74, 0.64), (0.94, 0.94, 0.90)),
        "rose": ((0.78, 0.56, 0.54), (0.92, 0.88, 0.84)),
        "slate": ((0.32, 0.36, 0.42), (0.68, 0.70, 0.72)),
        "chalk": ((0.88, 0.87, 0.84), (0.55, 0.56, 0.58)),
        "plum": ((0.44, 0.28, 0.36), (0.80, 0.76, 0.74)),
    },
}
# name: (sun elevation in degrees, sun colour, ambient colour, zenith, horizon, visibility in m, clouds); pairs: ranges
LIGHTS = {
    "train": {
        "noon": (
            (42, 68),
            (1.05, 1.00, 0.92),
            (0.46, 0.50, 0.56),
            (0.22, 0.45, 0.82),
            (0.70, 0.82, 0.93),
            (260, 500),
            (0.1, 0.6),
        ),
        "afternoon": (
            (26, 40),
            (1.10, 0.97, 0.80),
            (0.42, 0.46, 0.54),
            (0.30, 0.50, 0.80),
            (0.84, 0.86, 0.86),
            (180, 350),
            (0.2, 0.7),
        ),
        "overcast": (
            (45, 65),
            (0.22, 0.22, 0.22),
            (0.74, 0.77, 0.80),
            (0.62, 0.66, 0.71),
            (0.82, 0.84, 0.86),
            (110, 200),
            (0.8, 1.0),
        ),
    },
    "test": {
        "evening": (
            (12, 21),
            (1.20, 0.78, 0.48),
            (0.42, 0.41, 0.50),
            (0.35, 0.42, 0.66),
            (0.98, 0.76, 0.54),
            (90, 170),
            (0.3, 0.8),
        ),
        "misty morning": (
            (18, 25),
            (0.62, 0.58, 0.50),
            (0.60, 0.62, 0.66),
            (0.66, 0.74, 0.84),
            (0.92, 0.89, 0.84),
            (45, 85),
            (0.0, 0.3),
        ),
        "after rain": (
            (30, 41),
            (0.80, 0.82, 0.86),
            (0.40, 0.46, 0.56),
            (0.20, 0.30, 0.46),
            (0.62, 0.70, 0.80),
            (130, 250),
            (0.7, 0.95),
        ),
    },
}


@dataclass
class Look:
    """Light and air of one scene. ``sun`` is the unit vector towards the sun, colours are RGB in 0..1."""

    light: str
    sun: np.ndarray
    sun_colour: np.ndarray
    ambient: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray
    visibility: float  # metres until 63 % of the light is haze
    clouds: float  # 0 clear .. 1 closed
    noise: float  # sensor noise, grey levels of 255
    exposure: float


def choose(rng: np.random.Generator, table: dict[str, Any]) -> tuple[str, Any]:
    """One (name, value) of a table, all equally likely."""
    name = list(table)[int(rng.integers(len(table)))]
    return name, table[name]


def sample_look(rng: np.random.Generator, split: str) -> Look:
    """Light of a scene of ``split``; "test" has its own lights, "train" and "val" share theirs."""
    kind = "test" if split == "test" else "train"
    name, (elevation, sun, ambient, zenith, horizon, visibility, clouds) = choose(rng, LIGHTS[kind])
    height, around = np.radians(rng.uniform(*elevation)), rng.uniform(0, 2 * np.pi)
    direction = np.array([np.cos(around) * np.cos(height), np.sin(around) * np.cos(height), np.sin(height)])
    tint = rng.uniform(0.94, 1.06, 3)
    return Look(
        light=name,
        sun=np.round(direction, 6),
        sun_colour=np.array(sun) * tint,
        ambient=np.array(ambient),
        zenith=np.clip(np.array(zenith) * rng.uniform(0.9, 1.1, 3), 0, 1),
        horizon=np.array(horizon),
        visibility=float(rng.uniform(*visibility)),
        clouds=float(rng.uniform(*clouds)),
        noise=float(rng.uniform(1.0, 4.0)),
        exposure=float(rng.uniform(0.9, 1.12)),
    )
