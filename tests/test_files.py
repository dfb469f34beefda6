"""Atomic writes."""

import os

import pytest

from kdnb.files import atomic_path, atomic_write


def test_the_file_appears_when_the_block_ends(tmp_path):
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


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a.json"
    with atomic_path(path) as first, atomic_path(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]  # the inner block ended earlier


def test_a_full_disk_leaves_the_older_file(tmp_path):
    resource = pytest.importorskip("resource")
    path = atomic_write(tmp_path / "weights.bin", b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # the kernel refuses the write, as a full disk does
    try:
        with pytest.raises(OSError):
            atomic_write(path, b"new" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["weights.bin"]


def test_text_is_utf8_and_files_follow_the_umask(tmp_path):
    mask = os.umask(0o022)
    try:
        path = atomic_write(str(tmp_path / "a.txt"), "ä\n")
    finally:
        os.umask(mask)
    assert path.read_bytes() == "ä\n".encode() and path.stat().st_mode & 0o777 == 0o644
