"""Files that are whole or not there."""

import pytest

from kdnb.files import atomic_path


def test_a_file_takes_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "a.safetensors"
    with atomic_path(path) as part:
        part.write_text("half")
        assert not path.exists()
        part.write_text("whole")
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_older_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_text("older")
    with pytest.raises(OSError, match="No space left"), atomic_path(path) as part:
        part.write_text("half")
        raise OSError(28, "No space left on device")
    with pytest.raises(ZeroDivisionError), atomic_path(path):
        raise ZeroDivisionError  # before anything is written
    assert path.read_text() == "older" and list(tmp_path.iterdir()) == [path]
