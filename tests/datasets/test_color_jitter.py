import numpy as np

from kdnb.datasets.color_jitter import color_jitter


def test_color_jitter_is_one_rising_curve_per_channel():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    for seed in range(20):
        jittered = color_jitter(image, np.random.default_rng(seed))
        assert jittered.shape == image.shape and jittered.dtype == np.uint8
        for k in range(3):
            order = np.argsort(image[..., k], axis=None)
            values, tones = jittered[..., k].ravel()[order].astype(int), image[..., k].ravel()[order].astype(int)
            assert (np.diff(values) >= 0).all()
            assert (np.diff(values)[np.diff(tones) == 0] == 0).all()


def test_color_jitter_follows_its_seed():
    image = np.full((4, 4, 3), 120, np.uint8)
    images = [color_jitter(image, np.random.default_rng(seed)) for seed in (0, 1, 0)]
    assert (images[0] != images[1]).any() and (images[0] == images[2]).all()
    assert 60 < np.mean([color_jitter(image, np.random.default_rng(seed)).mean() for seed in range(50)]) < 190
