"""The one ray caster: image, masks, depth, LiDAR and shadows all come from the slab test below.

Rays are three direction arrays that broadcast to the grid (H, W). A camera without roll has x and z directions that
depend on the row only and y directions that depend on the column only, so most of the work for a box that is parallel
to the street is done on a row and a column instead of on an image.
"""

from dataclasses import dataclass

import numpy as np

from kdnb.world.solids import BOX, CYLINDER_Y, CYLINDER_Z, ELLIPSOID, RING, Solids

HOLE = 0.80  # inner radius of a RING, as a share of its radius


@dataclass
class Hits:
    """What each ray of an (H, W) grid meets first: ``distance`` in units of the ray's direction (inf: nothing) and the
    index of the solid (-1: none)."""

    distance: np.ndarray
    solid: np.ndarray


def into_frame(cos, sin, x, y):
    """x, y turned into a frame of yaw (cos, sin); keeps the small shapes where the frame is parallel to an axis."""
    if sin == 0:
        return cos * x, cos * y
    if cos == 0:
        return sin * y, -sin * x
    return cos * x + sin * y, cos * y - sin * x


def _slab(o, d, half):
    a, b = (-half - o) / d, (half - o) / d
    return np.minimum(a, b), np.maximum(a, b)


def _planes(o, d, oz, dz, half, height, low, high):
    """Like _slab for two planes that lean: inset by ``low`` (negative side) and ``high`` (positive side) at the top."""
    up = oz + height / 2
    fast, slow = d + (high / height) * dz, (low / height) * dz - d
    a, b = (half - o - (high / height) * up) / fast, (half + o - (low / height) * up) / slow
    enters_a, enters_b = fast < 0, slow < 0
    near = np.maximum(np.where(enters_a, a, -np.inf), np.where(enters_b, b, -np.inf))
    return near, np.minimum(np.where(enters_a, np.inf, a), np.where(enters_b, np.inf, b))


def _disc(ox, oy, dx, dy):
    """Entry and exit of a unit circle."""
    a = dx * dx + dy * dy
    cross = ox * dy - oy * dx
    # a - cross^2 instead of b^2 - a (|o|^2 - 1): does not lose the small radius among large distances
    root, b = np.sqrt(a - cross * cross), ox * dx + oy * dy
    return (-b - root) / a, (root - b) / a


def _ball(ox, oy, oz, dx, dy, dz):
    """Entry and exit of a unit sphere."""
    a = dx * dx + dy * dy + dz * dz
    c1, c2, c3 = oy * dz - oz * dy, oz * dx - ox * dz, ox * dy - oy * dx
    root, b = np.sqrt(a - c1 * c1 - c2 * c2 - c3 * c3), ox * dx + oy * dy + oz * dz
    return (-b - root) / a, (root - b) / a


def entry(shape, half, inset, o, d):
    """Where rays o + t d, given in the box's own frame, enter it: t, or inf for a miss or an origin inside.

    ``o`` and ``d`` are triples of arrays that broadcast together, ``half`` the half sizes, ``inset`` as in Solids.
    """
    (ox, oy, oz), (dx, dy, dz), (hx, hy, hz), (front, back, side) = o, d, half, inset
    if shape == ELLIPSOID:
        near, far = _ball(ox / hx, oy / hy, oz / hz, dx / hx, dy / hy, dz / hz)
    elif shape == CYLINDER_Z:
        (near, far), (n, f) = _disc(ox / hx, oy / hy, dx / hx, dy / hy), _slab(oz, dz, hz)
        near, far = np.maximum(near, n), np.minimum(far, f)
    elif shape in (CYLINDER_Y, RING):
        (near, far), (n, f) = _disc(ox / hx, oz / hz, dx / hx, dz / hz), _slab(oy, dy, hy)
        near, far = np.maximum(near, n), np.minimum(far, f)
        if shape == RING:
            inner = ((ox + near * dx) / hx) ** 2 + ((oz + near * dz) / hz) ** 2
            near = np.where(inner < HOLE * HOLE, np.inf, near)
    else:
        zn, zf = _slab(oz, dz, hz)
        xn, xf = _planes(ox, dx, oz, dz, hx, 2 * hz, back, front) if front or back else _slab(ox, dx, hx)
        yn, yf = _planes(oy, dy, oz, dz, hy, 2 * hz, side, side) if side else _slab(oy, dy, hy)
        near, far = np.maximum(np.maximum(xn, zn), yn), np.minimum(np.minimum(xf, zf), yf)
    return np.where((near < far) & (near > 0), near, np.float32(np.inf))


def _part(array, rows, cols):
    """The window of an array that broadcasts to the grid."""
    r = slice(None) if array.shape[0] == 1 else rows
    c = slice(None) if array.shape[1] == 1 else cols
    return array[r, c]


def cast(solids: Solids, origin, directions, windows: np.ndarray, shape: tuple[int, int]) -> Hits:
    """Nearest solid along every ray of a grid.

    Args:
        origin: (3,) common origin of the rays, ego frame.
        directions: three float32 arrays (x, y, z) of two dimensions that broadcast to ``shape``.
        windows: (N, 4) int: first row, end row, first column, end column of the rays that can meet solid n.
        shape: (H, W) of the grid.
    """
    distance = np.full(shape, np.inf, np.float32)
    index = np.full(shape, -1, np.int32)
    start = np.asarray(origin) - solids.centre
    # plain Python numbers: scalars of numpy would cost more than the work on a small window
    rows_of = zip(*(a.tolist() for a in (windows, *solids.turn, start, solids.size / 2, solids.inset, solids.shape)),
                  strict=True)
    dx, dy, dz = directions
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for i, ((r0, r1, c0, c1), cos, sin, (sx, sy, sz), half, inset, kind) in enumerate(rows_of):
            if r1 <= r0 or c1 <= c0:
                continue
            rows, cols = slice(r0, r1), slice(c0, c1)
            o = (*into_frame(cos, sin, sx, sy), sz)
            d = (*into_frame(cos, sin, _part(dx, rows, cols), _part(dy, rows, cols)), _part(dz, rows, cols))
            near = entry(kind, half, inset, o, d)
            best = distance[rows, cols]
            won = near < best
            np.copyto(best, near, where=won)
            np.copyto(index[rows, cols], i, where=won)
    return Hits(distance, index)


def faces(solids: Solids, solid: np.ndarray, points: np.ndarray):
    """Where on its solid each hit lies.

    Args:
        solid: (M,) index of the solid hit.
        points: (3, M) hit points, ego frame.
    Returns:
        local (3, M) point in the solid's frame, normal (3, M) in the ego frame, face (M,) uint8: 0 front (+x), 1 back,
        2 left (+y), 3 right, 4 top (+z), 5 bottom.
    """
    cos, sin = (a[solid] for a in solids.turn)
    x, y, z = points - solids.centre.T.astype(np.float32)[:, solid]
    x, y = cos * x + sin * y, cos * y - sin * x
    hx, hy, hz = (solids.size.T / 2).astype(np.float32)[:, solid]
    front, back, side = solids.inset.T.astype(np.float32)[:, solid]
    up = (z + hz) / (2 * hz)
    ahead = x > (back - front) * up / 2
    lean = np.where(ahead, front, back)
    room = np.stack([hx - lean * up - np.where(ahead, x, -x), hy - side * up - np.abs(y), hz - np.abs(z)])
    axis = np.where(room[0] < room[1], np.where(room[0] < room[2], 0, 2), np.where(room[1] < room[2], 1, 2))
    nx = np.where(axis == 0, np.where(ahead, 1, -1), 0).astype(np.float32)
    ny = np.where(axis == 1, np.sign(y), 0).astype(np.float32)
    nz = np.where(axis == 2, np.sign(z), np.where(axis == 0, lean, side) / (2 * hz)).astype(np.float32)
    kind = solids.shape[solid]
    rounded = np.flatnonzero(kind != BOX)
    if len(rounded):
        n, k = np.stack([x, y, z])[:, rounded] / np.stack([hx, hy, hz])[:, rounded], kind[rounded]
        flat = np.where(k == CYLINDER_Z, np.abs(n[2]), np.where(k == ELLIPSOID, 0, np.abs(n[1]))) > 0.999
        across = (k == CYLINDER_Y) | (k == RING)
        n[0][flat], n[1][flat & ~across], n[2][flat & across] = 0, 0, 0
        n[1][~flat & across], n[2][~flat & (k == CYLINDER_Z)] = 0, 0
        n /= np.stack([hx, hy, hz])[:, rounded]
        nx[rounded], ny[rounded], nz[rounded] = n
        size = np.abs(n)
        axis[rounded] = np.where(size[0] >= np.maximum(size[1], size[2]), 0, np.where(size[1] >= size[2], 1, 2))
    length = np.sqrt(nx * nx + ny * ny + nz * nz) + np.float32(1e-12)
    positive = np.where(axis == 0, nx, np.where(axis == 1, ny, nz)) > 0
    face = (2 * axis + 1 - positive).astype(np.uint8)
    normal = np.stack([cos * nx - sin * ny, sin * nx + cos * ny, nz]) / length
    return np.stack([x, y, z]), normal, face
