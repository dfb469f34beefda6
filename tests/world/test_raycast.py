"""The slab test against marching along rays, and the nearest of many boxes against a textbook loop."""

import numpy as np
import pytest

from kdnb.world import solids as s
from kdnb.world.raycast import cast, entry, faces
from kdnb.world.solids import Kit, solids


def contains(kind, half, inset, p):
    """Whether points (M, 3) in the solid's own frame are inside: the definition, not the slab test."""
    x, y, z = p.T
    hx, hy, hz = half
    front, back, side = inset
    up = (z + hz) / (2 * hz)
    within = np.abs(z) <= hz
    if kind == s.ELLIPSOID:
        return (x / hx) ** 2 + (y / hy) ** 2 + (z / hz) ** 2 <= 1
    if kind == s.CYLINDER_Z:
        return within & ((x / hx) ** 2 + (y / hy) ** 2 <= 1)
    if kind == s.CYLINDER_Y:
        return (np.abs(y) <= hy) & ((x / hx) ** 2 + (z / hz) ** 2 <= 1)
    return within & (x <= hx - front * up) & (x >= back * up - hx) & (np.abs(y) <= hy - side * up)


@pytest.mark.parametrize(
    "kind, inset",
    [
        (s.BOX, (0, 0, 0)),
        (s.BOX, (0.5, 0.2, 0.3)),
        (s.BOX, (0.7, -0.7, 0.0)),
        (s.CYLINDER_Y, (0, 0, 0)),
        (s.CYLINDER_Z, (0, 0, 0)),
        (s.ELLIPSOID, (0, 0, 0)),
    ],
)
def test_entry_agrees_with_marching(kind, inset):
    rng = np.random.default_rng(0)
    half = (1.2, 0.8, 0.6)
    origin = np.array([4.0, 2.0, 1.5])
    targets = rng.uniform(-1.6, 1.6, (400, 3))
    d = (targets - origin).astype(np.float32)
    with np.errstate(all="ignore"):
        t = entry(kind, half, None if inset == (0, 0, 0) else inset, tuple(origin.astype(np.float32)), tuple(d.T))
    steps = np.linspace(0, 2.5, 2501)
    hit = np.stack([contains(kind, half, inset, origin + step * d) for step in steps])
    expected = np.where(hit.any(0), steps[hit.argmax(0)], np.inf)
    grazing = hit.sum(0) < 5  # a ray that is inside for less than 5 steps may be missed by marching
    sure = ~grazing | ~np.isfinite(t)
    assert (np.isfinite(t) == np.isfinite(expected))[sure & ~((hit.sum(0) == 0) & np.isfinite(t))].all()
    both = np.isfinite(t) & np.isfinite(expected)
    assert both.sum() > 60
    assert np.abs(t[both] - expected[both]).max() < 0.0021


def test_ring_is_open_in_the_middle():
    origin, half = tuple(np.float32([0, 5, 0])), (0.35, 0.03, 0.35)
    x = np.float32([0.0, 0.2, 0.32, 0.5])
    t = entry(s.RING, half, None, origin, (x, np.float32([-5] * 4), np.float32([1e-6] * 4)))
    assert np.isfinite(t).tolist() == [False, False, True, False]


def slab(o, d, half):
    """One ray, one axis-parallel box, the textbook way."""
    near, far = 0.0, np.inf
    for a in range(3):
        t = sorted(((-half[a] - o[a]) / d[a], (half[a] - o[a]) / d[a]))
        near, far = max(near, t[0]), min(far, t[1])
    return near if near < far and near > 0 else np.inf


def random_street(rng, count):
    rows = []
    for k in range(count):
        kit = Kit("car")
        kit.add((0, 0, rng.uniform(0.5, 2)), rng.uniform(0.5, 3, 3), (1, 0, 0))
        rows.append((np.array(kit.rows), rng.uniform(4, 30), rng.uniform(-8, 8), rng.uniform(0, 6.3), k + 1))
    return solids(rows)


def test_nearest_of_many_boxes_against_a_loop():
    rng = np.random.default_rng(1)
    boxes, origin = random_street(rng, 25), np.array([0.0, 0.0, 1.6])
    y, z = rng.uniform(-0.7, 0.7, (1, 40)), rng.uniform(-0.4, 0.3, (30, 1))
    rays = (np.ones((30, 1), np.float32), y.astype(np.float32), z.astype(np.float32))
    everywhere = np.tile([0, 30, 0, 40], (25, 1))
    hits = cast(boxes, origin, rays, everywhere, (30, 40))
    for r in range(0, 30, 3):
        for c in range(0, 40, 3):
            best = []
            for k in range(25):
                cos, sin = np.cos(boxes.yaw[k]), np.sin(boxes.yaw[k])
                turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
                d = turn @ [1, y[0, c], z[r, 0]]
                best.append(slab(turn @ (origin - boxes.centre[k]), d, boxes.size[k] / 2))
            assert hits.distance[r, c] == pytest.approx(min(best), rel=1e-4) or not np.isfinite(min(best))
            assert np.isfinite(hits.distance[r, c]) == np.isfinite(min(best))
            if np.isfinite(min(best)):
                assert hits.solid[r, c] == int(np.argmin(best))


def test_windows_only_limit_what_is_tested():
    rng = np.random.default_rng(2)
    boxes, rays = random_street(rng, 6), tuple(np.ones((4, 4), np.float32) for _ in range(3))
    nowhere = np.zeros((6, 4), int)
    assert (cast(boxes, np.zeros(3), rays, nowhere, (4, 4)).solid == -1).all()


def test_faces_of_a_turned_box():
    kit = Kit("car")
    kit.add((0, 0, 1), (4, 2, 2), (1, 1, 1))
    box = solids([(np.array(kit.rows), 10.0, 0.0, np.pi / 2, 1)])  # its front looks to +y
    points = np.array([[9.0, 0, 1.0], [10.0, 2.0, 1.0], [10.0, 0.3, 2.0]]).T.astype(np.float32)
    local, normal, face = faces(box, np.zeros(3, int), points)
    assert face.tolist() == [2, 0, 4]  # left side, front, top
    np.testing.assert_allclose(normal.T, [[-1, 0, 0], [0, 1, 0], [0, 0, 1]], atol=1e-5)
    np.testing.assert_allclose(local.T[1], [2, 0, 0], atol=1e-5)


def test_kit_extent_matches_the_corners_of_its_solids():
    from kdnb.world import figures, vehicles

    for builder in (vehicles.car, vehicles.tram, figures.person, figures.dog):
        kit, _ = builder(np.random.default_rng(3))
        corners = solids([(np.array(kit.rows), 0.0, 0.0, 0.0, 1)]).corners.reshape(-1, 3)
        low, high = kit.extent()
        np.testing.assert_allclose(low, corners.min(0), atol=2e-4)
        np.testing.assert_allclose(high, corners.max(0), atol=2e-4)
