"""Paint of the car models: what tells one generation from the next on the faces of its body, its cabin and its wheels.

The small number ``variant`` of a solid says which: two bits of lamps, two of the grille, one each for dark bumpers, a
stripe and dark cladding (a body); two of the roof and one for the stripe (a cabin); the kind of rim (a wheel).
"""

import numpy as np

from kdnb.world.palette import CHROME, GLASS
from kdnb.world.solids import MODEL_BODY, MODEL_CABIN, RIM
from kdnb.world.textures import BACK, FRONT, TOP, Patch

DARK = (0.07, 0.07, 0.08)
HEAD, TAIL = (1.0, 0.98, 0.88), (0.85, 0.06, 0.05)
# lamps: lower and upper edge (shares of the body's height), inner and outer edge (shares of half its width)
HEADLAMPS = ((0.56, 0.80, 0.58, 0.84), (0.50, 0.86, 0.70, 0.96), (0.64, 0.80, 0.46, 0.96), (0.70, 0.80, 0.30, 0.97))
TAILLAMPS = ((0.52, 0.74, 0.62, 0.94), (0.36, 0.92, 0.80, 0.97), (0.62, 0.80, 0.48, 0.96), (0.68, 0.78, 0.00, 0.96))
# grilles: lower and upper edge, half width
GRILLES = ((0.52, 0.74, 0.36), (0.36, 0.56, 0.52), (0.26, 0.76, 0.34), (0.20, 0.46, 0.72))


def _one_of(table, kind):
    """Columns of a table at row ``kind`` (M,) of each hit, one array (M,) a column."""
    return np.float32(table)[kind].T


def body(p: Patch) -> None:
    lamps, grille = p.variant & 3, p.variant >> 2 & 3
    dark_bumper, striped, clad = (p.variant >> bit & 1 == 1 for bit in (4, 5, 6))
    high = 2 * p.hz
    up, out = (p.z + p.hz) / high, np.abs(p.y) / p.hy
    p.gloss[:] = np.where(p.face == TOP, 0.16, 0.08)
    stripe = striped & ((p.face >= TOP) | p.ends) & (np.abs(np.abs(p.y) - 0.24) < 0.12)
    p.put(stripe, p.accent[:, stripe])
    p.put((up < 0.13) & (p.face < TOP), DARK)
    p.put(dark_bumper & p.ends & (up > 0.10) & (up < 0.34), (0.12, 0.12, 0.13))
    p.put(clad & p.sides & (up < 0.32), (0.12, 0.12, 0.13))
    _doors(p, up)
    low, top, half = _one_of(GRILLES, grille)
    mesh = (p.face == FRONT) & (up > low) & (up < top) & (out < half)
    p.put(mesh, DARK)
    p.put(mesh & (grille == 2) & (np.mod(up * 14, 1) < 0.4), CHROME)
    p.put(mesh & (grille == 0) & (up > top - 0.05), CHROME)
    _lamps(p, FRONT, HEADLAMPS, lamps, up, out, HEAD, 0.55)
    _lamps(p, BACK, TAILLAMPS, lamps, up, out, TAIL, 0.25)
    plate = np.where(p.face == FRONT, 0.22, np.where(lamps == 3, 0.34, 0.30))
    p.put(p.ends & (up > plate) & (up < plate + 0.17) & (np.abs(p.y) < 0.26), (0.88, 0.88, 0.82))


def _doors(p, up):
    seam = p.sides & ((np.abs(p.x - 0.06) < 0.014) | (np.abs(p.x + 1.02) < 0.014)) & (up > 0.2)
    p.colour[:, seam] *= 0.5
    p.put(p.sides & (np.abs(p.x + 0.12) < 0.09) & (np.abs(up - 0.8) < 0.02), (0.5, 0.5, 0.52))


def _lamps(p, face, table, kind, up, out, colour, glow):
    low, top, inner, outer = _one_of(table, kind)
    lit = (p.face == face) & (up > low) & (up < top) & (out >= inner) & (out < outer)
    p.put(lit, colour, glow)


def cabin(p: Patch) -> None:
    roof, striped = p.variant & 3, p.variant >> 2 & 1 == 1
    up = (p.z + p.hz) / (2 * p.hz)
    p.gloss[:] = 0.10
    black = (roof == 1) & ((p.face == TOP) | (up > 0.88))
    p.put(black, DARK, 0.0, 0.12)
    p.put((roof == 2) & (p.face == TOP) & (np.abs(p.x - 0.15) < 0.35) & (np.abs(p.y) < 0.4), GLASS, 0.0, 0.34)
    stripe = striped & (p.face == TOP) & (np.abs(np.abs(p.y) - 0.24) < 0.12)
    p.put(stripe, p.accent[:, stripe])
    pillar = (up > 0.90) | (p.sides & ((np.abs(p.x + 0.02) < 0.045) | (np.abs(p.x) > 0.93 * p.hx)))
    pillar |= p.ends & (np.abs(p.y) > 0.93 * (p.hy - 0.17 * up))
    p.put((p.face < TOP) & ~pillar & (up > 0.06), GLASS, 0.0, 0.34)
    p.put((roof == 3) & p.sides & (up > 0.06) & (up < 0.13), CHROME)


def rim(p: Patch) -> None:
    kind = p.variant
    r = np.sqrt(p.x**2 + p.z**2) / p.hx
    angle = np.arctan2(p.z, p.x) / np.float32(2 * np.pi)
    open_share, count = _one_of(((0.45, 5), (0.0, 1), (0.5, 10), (0.4, 6)), kind)
    gap = (np.mod(angle * count, 1.0) < open_share) & (r > 0.2)
    hub = p.sides & (r < np.where(kind == 3, 0.76, 0.64))
    dim = np.where(gap, 0.35, np.where(kind == 3, 0.55, 1.0)).astype(np.float32)
    p.put(hub, p.accent[:, hub] * dim[hub])


CAR_PAINT = {MODEL_BODY: body, MODEL_CABIN: cabin, RIM: rim}
