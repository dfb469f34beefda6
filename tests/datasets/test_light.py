import numpy as np

from kdnb.datasets.light import relit


def test_another_light_is_one_rising_curve_for_each_channel():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    for seed in range(20):
        seen = relit(image, np.random.default_rng(seed))
        assert seen.shape == image.shape and seen.dtype == np.uint8
        for k in range(3):
            order = np.argsort(image[..., k], axis=None)
            values, tones = seen[..., k].ravel()[order].astype(int), image[..., k].ravel()[order].astype(int)
            assert (np.diff(values) >= 0).all()
            assert (np.diff(values)[np.diff(tones) == 0] == 0).all()


def test_lights_differ_and_come_back_with_their_seed():
    image = np.full((4, 4, 3), 120, np.uint8)
    lights = [relit(image, np.random.default_rng(seed)) for seed in (0, 1, 0)]
    assert (lights[0] != lights[1]).any() and (lights[0] == lights[2]).all()
    assert 60 < np.mean([relit(image, np.random.default_rng(seed)).mean() for seed in range(50)]) < 190
