"""Without a network and a cache, each kind of weights is one line: what is missing, and where to put it."""

import pytest
import torch

from kdnb.errors import InputError
from kdnb.models.alignment import Student
from kdnb.models.clip import full_teacher
from kdnb.models.depth import depth_model
from kdnb.models.detector import full_detector
from kdnb.models.fusion3d import full_fusion3d
from kdnb.models.pretrained import image_backbone, text_encoder
from kdnb.models.stable_diffusion import stable_diffusion

RANDOM = "pretrained=false"
CASES = {
    "torchvision resnet101": (
        lambda: full_detector("resnet101", 20, (64, 64), True),
        ("resnet101-", "checkpoints", RANDOM),
    ),
    "torchvision mobilenet": (
        lambda: full_detector("mobilenet_v3_large", 20, (64, 64), True),
        ("mobilenet_v3_large-", RANDOM),
    ),
    "torchvision in 04": (lambda: full_fusion3d(True), ("resnet50-", "checkpoints", RANDOM)),
    "timm backbone": (lambda: image_backbone("efficientnet_b5"), ("efficientnet_b5", "cache", RANDOM)),
    "timm student of 01": (lambda: Student("convnext_atto", 8, True), ("convnext_atto", "cache", RANDOM)),
    "open_clip": (lambda: full_teacher("ViT-B-32", "laion2b_s34b_b79k"), ("ViT-B-32", "file", "null")),
    "transformers text": (lambda: text_encoder("owner/name"), ("owner/name", "folder")),
    "transformers depth": (lambda: depth_model("hf:owner/name"), ("owner/name", "folder")),
    "diffusers": (lambda: stable_diffusion("owner/name"), ("owner/name", "folder")),
}


@pytest.mark.parametrize("case", CASES)
def test_missing_weights_are_one_line(case, tmp_path, monkeypatch):
    if case == "diffusers":
        pytest.importorskip("diffusers")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    build, told = CASES[case]
    with pytest.raises(InputError) as caught:
        build()
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in told), message


def refuse(*_, **__):
    raise OSError("no network in this test")


def test_a_file_in_torchvisions_folder_needs_no_network(tmp_path, monkeypatch):
    from torchvision.models import ResNet50_Weights, resnet50

    monkeypatch.setattr("socket.create_connection", refuse)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(resnet50().state_dict(), folder / ResNet50_Weights.DEFAULT.url.rpartition("/")[2])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert full_detector("resnet50", 20, (64, 64), True) is not None
