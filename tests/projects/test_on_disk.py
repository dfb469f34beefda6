"""Arrays on disk: made once, whole or not at all, read row by row."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from kdnb.projects.on_disk import kept_array


def rows_of(batches):
    for rows in batches:
        yield torch.arange(rows.start, rows.stop)[:, None, None] * torch.ones(2, 3)


@pytest.mark.parametrize(("count", "dtype"), [(1, np.float32), (5, np.float32), (9, np.float16)])
def test_it_holds_what_was_produced(tmp_path, count, dtype):
    made = kept_array(tmp_path / "a" / "rows.npy", count, rows_of, Accelerator(cpu=True), dtype, batch=4)
    assert made.shape == (count, 2, 3) and made.dtype == torch.from_numpy(np.zeros(0, dtype)).dtype
    assert made[:, 1, 2].tolist() == list(range(count))


def test_it_is_made_once_and_never_in_part(tmp_path):
    file, acc = tmp_path / "rows.npy", Accelerator(cpu=True)

    def killed(batches):
        yield from rows_of(batches[:1])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept_array(file, 9, killed, acc, batch=4)
    assert not file.exists()
    kept_array(file, 9, rows_of, acc, batch=4)
    again = kept_array(file, 9, lambda batches: pytest.fail("made again"), acc, batch=4)
    again[0] = 7.0  # in memory alone
    assert np.load(file)[:, 0, 0].tolist() == list(range(9))
