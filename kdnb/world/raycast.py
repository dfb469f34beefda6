"""The one ray caster: image, masks, depth, LiDAR and shadows all come from the slab test below.

It works on (solid, ray) pairs: a solid is tested only against the rays in the window of the grid that its corners
cover, and all pairs of one kind of solid are tested at once. A street has about 1.5 pairs per ray, so a hundred small
solids cost no more than a big one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from kdnb.world.solids import BOX, CYLINDER_Y, CYLINDER_Z, ELLIPSOID, RING, Solids

Triple = tuple[np.ndarray, np.ndarray, np.ndarray]
HOLE = 0.80  # inner radius of a RING, as a share of its radius
BATCH = 60_000  # pairs tested at once: large enough to be vectorised, small enough for the processor's cache


@dataclass
class Hits:
    """First hit of each ray of an (H, W) grid: ``distance`` in units of the ray's direction, inf for none, and the
    index of the ``solid``, -1 for none."""

    distance: np.ndarray
    solid: np.ndarray


def into_frame(cos: np.ndarray, sin: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x, y in a frame whose yaw has this cosine and sine."""
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


def entry(kind: int, half: Triple, inset: Triple | None, o: Triple, d: Triple) -> np.ndarray:
    """Where rays o + t d, given in the box's own frame, enter it: t, or inf for a miss or an origin inside.

    All triples are of arrays (M,): ``half`` the half sizes, ``inset`` as in Solids or None for none.
    """
    (ox, oy, oz), (dx, dy, dz), (hx, hy, hz) = o, d, half
    if kind == ELLIPSOID:
        near, far = _ball(ox / hx, oy / hy, oz / hz, dx / hx, dy / hy, dz / hz)
    elif kind == CYLINDER_Z:
        (near, far), (n, f) = _disc(ox / hx, oy / hy, dx / hx, dy / hy), _slab(oz, dz, hz)
        near, far = np.maximum(near, n), np.minimum(far, f)
    elif kind in (CYLINDER_Y, RING):
        (near, far), (n, f) = _disc(ox / hx, oz / hz, dx / hx, dz / hz), _slab(oy, dy, hy)
        near, far = np.maximum(near, n), np.minimum(far, f)
        if kind == RING:
            inner = ((ox + near * dx) / hx) ** 2 + ((oz + near * dz) / hz) ** 2
            near = np.where(inner < HOLE * HOLE, np.inf, near)
    else:
        near, far = _slab(oz, dz, hz)
        if inset is None:
            (xn, xf), (yn, yf) = _slab(ox, dx, hx), _slab(oy, dy, hy)
        else:
            front, back, side = inset
            xn, xf = _planes(ox, dx, oz, dz, hx, 2 * hz, back, front)
            yn, yf = _planes(oy, dy, oz, dz, hy, 2 * hz, side, side)
        near, far = np.maximum(np.maximum(near, xn), yn), np.minimum(np.minimum(far, xf), yf)
    return np.where((near < far) & (near > 0), near, np.float32(np.inf))


def _batches(solids: Solids, windows):
    """Solids with a window of rays as (kind, has insets, indices); a batch has about BATCH pairs or one solid."""
    area = (windows[:, 1] - windows[:, 0]).clip(0) * (windows[:, 3] - windows[:, 2]).clip(0)
    leans = (solids.inset != 0).any(1) & (solids.shape == BOX)
    group = 2 * solids.shape + leans
    for code in np.flatnonzero(np.bincount(group[area > 0], minlength=1)).tolist():
        members = np.flatnonzero((group == code) & (area > 0))
        cuts = np.flatnonzero(np.diff(np.cumsum(area[members]) // BATCH)) + 1
        for part in np.split(members, cuts):
            yield code // 2, code % 2 == 1, part


def intersect(
    solids: Solids, windows: np.ndarray, rays_of: Callable[[np.ndarray, np.ndarray], tuple]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Test each solid against the rays of its window; yields (rows, columns, t, solid) of the pairs that hit.

    ``rays_of(rows, columns)`` gives origins (x, y, z) and directions (x, y, z) of rays in the ego frame, each an array
    over the pairs or a number.
    """
    cos, sin = solids.cos_sin
    half, inset, centre = (a.T.astype(np.float32) for a in (solids.size / 2, solids.inset, solids.centre))
    windows = windows.astype(np.int32)
    for kind, leans, part in _batches(solids, windows):
        r0, r1, c0, c1 = windows[part].T
        count = (r1 - r0) * (c1 - c0)

        def spread(per_solid, part=part, count=count):
            return np.repeat(per_solid[..., part], count, axis=-1)

        first = np.repeat((np.cumsum(count) - count).astype(np.int32), count)
        within, wide = np.arange(count.sum(), dtype=np.int32) - first, np.repeat(c1 - c0, count)
        down = within // wide
        rows, columns = np.repeat(r0, count) + down, np.repeat(c0, count) + within - down * wide
        (ox, oy, oz), (dx, dy, dz) = rays_of(rows, columns)
        (cx, cy, cz), c, s = spread(centre), spread(cos), spread(sin)
        o = (*into_frame(c, s, ox - cx, oy - cy), oz - cz)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            t = entry(kind, spread(half), spread(inset) if leans else None, o, (*into_frame(c, s, dx, dy), dz))
        hit = np.flatnonzero(t < np.inf)
        yield rows[hit], columns[hit], t[hit], np.repeat(part, count)[hit]


def _at(array, rows, columns):
    """Elements of an array that broadcasts to the grid."""
    return array[rows if array.shape[0] > 1 else 0, columns if array.shape[1] > 1 else 0]


def cast(solids: Solids, origin: np.ndarray, directions: Triple, windows: np.ndarray, shape: tuple[int, int]) -> Hits:
    """Nearest solid along each ray of a grid.

    Args:
        origin: (3,) common origin of the rays, ego frame.
        directions: three float32 arrays (x, y, z) of two dimensions that broadcast to ``shape``.
        windows: (N, 4) int: first row, end row, first column, end column of the rays that can hit solid n.
        shape: (H, W) of the grid.
    """
    distance = np.full(shape[0] * shape[1], np.inf, np.float32)
    index = np.full(shape[0] * shape[1], -1, np.int32)
    origin = tuple(np.float32(a) for a in origin)

    def rays_of(rows, columns):
        return origin, tuple(_at(a, rows, columns) for a in directions)

    for rows, columns, t, solid in intersect(solids, windows, rays_of):
        ray = rows * shape[1] + columns
        np.minimum.at(distance, ray, t)
        nearest = t == distance[ray]
        index[ray[nearest]] = solid[nearest]
    return Hits(distance.reshape(shape), index.reshape(shape))


def faces(solids: Solids, solid: np.ndarray, points: np.ndarray) -> Triple:
    """Where on its solid each hit lies.

    Args:
        solid: (M,) index of the solid hit.
        points: (3, M) hit points, ego frame.
    Returns:
        local (3, M) point in the solid's frame, normal (3, M) in the ego frame, face (M,) uint8: 0 front (+x), 1 back,
        2 left (+y), 3 right, 4 top (+z), 5 bottom.
    """
    table = np.concatenate([*([a] for a in solids.cos_sin), solids.centre.T, solids.size.T / 2, solids.inset.T])
    cos, sin, cx, cy, cz, hx, hy, hz, front, back, side = (row[solid] for row in table.astype(np.float32))
    x, y = into_frame(cos, sin, points[0] - cx, points[1] - cy)
    z = points[2] - cz
    up = (z + hz) / (2 * hz)
    ahead = x > (back - front) * up / 2
    lean = np.where(ahead, front, back)
    room_x, room_y, room_z = hx - lean * up - np.where(ahead, x, -x), hy - side * up - np.abs(y), hz - np.abs(z)
    on_x = (room_x < room_y) & (room_x < room_z)
    on_y = ~on_x & (room_y < room_z)
    on_z = ~(on_x | on_y)
    axis = (on_y + 2 * on_z).astype(np.int8)
    nx = np.where(ahead, np.float32(1), np.float32(-1)) * on_x
    ny = np.sign(y) * on_y
    nz = np.where(on_z, np.sign(z), np.where(on_x, lean, side) / (2 * hz))
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
