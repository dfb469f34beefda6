import importlib.metadata
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from kdnb import doctor
from kdnb.cli import main
from kdnb.doctor import (
    GIGA,
    Check,
    check_chromium,
    check_device,
    check_disk,
    check_kernel,
    check_memory,
    check_packages,
    check_python,
    check_threads,
    check_torchvision,
    examine,
)


def test_python():
    assert check_python((3, 10, 0)).ok and check_python((4, 0, 0)).ok
    old = check_python((3, 9, 18))
    assert old.ok is False and "3.9.18" in old.what and "3.10" in old.fix


def fake_versions(**versions):
    def installed(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    return installed


def test_packages_against_their_bounds():
    needs = ["torch>=2.4", "click>=8.1", "shapely>=2.0; extra == 'test'"]
    assert check_packages(needs, fake_versions(torch="2.10.0+cpu", click="8.1")).what.startswith("2 dependencies")
    bad = check_packages(needs, fake_versions(torch="2.3.1"))
    assert bad.ok is False
    assert bad.what == "torch is 2.3.1, expected >=2.4, click is missing, expected >=8.1"
    assert bad.fix == "pip install 'torch>=2.4' 'click>=8.1'"


def test_this_environment_is_healthy():
    assert check_packages().ok and check_torchvision().ok and check_device().ok and check_kernel().ok is not False


def broken():
    raise RuntimeError("operator torchvision::nms does not exist\nand a long tale")


@pytest.mark.parametrize(
    ("versions", "fix"),
    [
        (("2.8.0+cpu", "0.23.0"), "different builds (cpu and PyPI)"),
        (("2.8.0", "0.22.1"), "torch 2.8 belongs to torchvision 0.23: pip install 'torchvision==0.23.*'"),
        (("2.8.0", "0.23.0"), "pip install --force-reinstall --no-cache-dir torch torchvision"),
        (("2.8.0", None), "pip install torch torchvision"),
    ],
)
def test_broken_pairs_are_named_with_their_fix(versions, fix):
    result = check_torchvision(broken, versions)
    assert result.ok is False
    assert result.what.startswith(f"torch {versions[0]} with torchvision {versions[1]}: operator")
    assert "\n" not in result.what and fix in result.fix and "pip install" in result.fix


def fake_torch(cuda=False, mps=False):
    return SimpleNamespace(
        cuda=SimpleNamespace(is_available=lambda: cuda, get_device_name=lambda i: "H100", device_count=lambda: 2),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps)),
    )


def test_device():
    assert check_device(fake_torch(cuda=True)).what == "GPU: H100, 2 in all"
    assert "MPS" in check_device(fake_torch(mps=True)).what
    assert "no GPU" in check_device(fake_torch()).what and check_device(fake_torch()).ok


def test_threads():
    assert check_threads(4, "2").ok and check_threads(4, "").ok
    assert check_threads(2, "8").ok is None and check_threads(2, "8").fix == "export KDNB_THREADS=2"
    assert check_threads(2, "many").ok is False


def test_disk_and_memory():
    assert [check_disk(free=size * GIGA).ok for size in (0.5, 5, 50)] == [False, None, True]
    assert [check_memory(size * GIGA).ok for size in (2, 4, 64)] == [False, True, True]
    assert doctor._available_memory("/no/such/file") is None and check_memory().ok is not None


def test_kernel_and_browser():
    def missing():
        raise LookupError("no such kernel")

    assert check_kernel(lambda: ["python", "-m", "ipykernel_launcher"]).ok
    other = check_kernel(lambda: ["/opt/other/python"])
    assert other.ok is None and "/opt/other/python" in other.what and "ipykernel install" in other.fix
    assert check_kernel(missing).ok is False
    assert check_chromium(lambda name: "/usr/bin/chromium" if name == "chromium" else None).ok
    assert check_chromium(lambda name: None).ok is None


def test_notes_do_not_fail_but_faults_do(monkeypatch):
    fine, note, fault = (
        (lambda: Check(True, "fine", "x")),
        (lambda: Check(None, "hm", "do")),
        (lambda: Check(False, "bad", "mend")),
    )
    assert examine([fine, note]) == (["ok      fine", "note    hm", "        -> do"], True)
    assert examine([fault, fine]) == (["BROKEN  bad", "        -> mend", "ok      fine"], False)
    for checks, status in (([fine, note], 0), ([fine, fault], 1)):
        monkeypatch.setattr(doctor, "examine", lambda checks=checks: examine(checks))
        assert CliRunner().invoke(main, ["doctor"]).exit_code == status
