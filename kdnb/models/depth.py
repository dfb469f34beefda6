"""Image → depth in metres, by one of three backends: the small network of ``depth_net``, a Hugging Face model, files.

Depth is z along the optical axis of the rectified camera, not the length of the ray.
"""

from __future__ import annotations

import hashlib
import tokenize
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdnb.datasets.depth_views import resized
from kdnb.datasets.images import DECODER_ERRORS, opened
from kdnb.datasets.kitti import Frame
from kdnb.datasets.kitti_calib import Calibration
from kdnb.errors import InputError
from kdnb.models.depth_net import TinyDepth
from kdnb.models.hubs import reachable

KITTI_MAX = 80  # metres; on KITTI GLPN's sigmoid is a fraction of this
WORST = 0.5  # AbsRel; networks that were trained on KITTI have 0.05 to 0.15
# of a header that is text to be parsed, and of an archive instead of an array
NPY_ERRORS = (*DECODER_ERRORS, zipfile.BadZipFile, tokenize.TokenError, UnicodeError, RecursionError)
SCALES = {  # true over predicted depth: what was mistaken for metres
    256 / 1000: "millimetres in PNGs, which hold metres x 256",
    1 / 1000: "millimetres",
    1 / 100: "centimetres",
    1 / 256: "metres x 256",
    1 / 8: "metres that were multiplied by 8 although they needed no factor",
    256.0: "whole metres in PNGs, which hold metres x 256",
    8.0: "a share of 10 m where weights of KITTI mean 80 m",
}


class DepthModel:
    """``model(image, frame)`` → z (H, W) float32 in metres, 0 where unknown.

    Args:
        name: of the backend, such as "tiny-1a2b3c4d"; differs between networks of different weights.
        predict: (image uint8 (H, W, 3), frame's name) → array (H, W).
        parameters: of its network; 0 for files.
    """

    def __init__(self, name: str, predict: Callable[[np.ndarray, str], np.ndarray], parameters: int = 0):
        self.name, self.predict, self.parameters = name, predict, parameters

    def __call__(self, image: np.ndarray, frame: str = "") -> np.ndarray:
        """Depth of one image. Raises InputError if the backend returns another size or a negative depth."""
        depth = np.asarray(self.predict(image, frame), np.float32)
        if depth.shape != image.shape[:2]:
            raise InputError(
                f"{self.name}: depth of frame {frame!r} is {depth.shape}, expected {image.shape[:2]} as its image"
            )
        depth = np.where(np.isfinite(depth), depth, 0)
        if depth.min() < 0:
            raise InputError(f"{self.name}: depth of frame {frame!r} goes down to {depth.min():.3g}, expected metres")
        return depth


def depth_model(spec: str, net: TinyDepth | None = None, **options: float) -> DepthModel:
    """The model of a setting.

    Args:
        spec: "tiny" (with ``net``), "hf:<model id or folder>" or "folder:<path>".
        options: of ``hf_depth``.

    Raises:
        InputError: another spec, and as ``hf_depth`` and ``folder_depth``.
    """
    kind, _, value = spec.partition(":")
    if kind == "tiny" and net is not None:
        return tiny_depth(net)
    if kind == "hf" and value:
        return hf_depth(value, **options)
    if kind == "folder" and value:
        return folder_depth(value)
    raise InputError(f"depth is {spec!r}, expected 'tiny' with a trained network, 'hf:<model id>' or 'folder:<path>'")


def require_metres(model: DepthModel, errors: Mapping[str, Any]) -> None:
    """Raise InputError for a model that is far from the LiDAR, and say what its numbers may be instead of metres.

    Args:
        errors: as of ``kdnb.metrics.depth.evaluate_depth``, of frames with LiDAR.
    """
    if not errors["pixels"]:
        raise InputError(f"{model.name}: no depth at any of the pixels that the LiDAR measured, expected metres")
    if errors["AbsRel"] <= WORST:
        return
    scale = errors["scale"]
    nearest = min(SCALES, key=lambda known: abs(np.log(known / scale)))
    found = f"AbsRel {errors['AbsRel']:.2f} against the LiDAR of {errors['images']} frames"
    hint = f", so these look like {SCALES[nearest]}" if 0.8 < nearest / scale < 1.25 else ""
    expected = f"expected metres and at most {WORST:g}; true depth is {scale:.3g} times as large"
    raise InputError(f"{model.name}: {found}, {expected}{hint}")


# --- the small network --------------------------------------------------------------------------------------------


def tiny_depth(net: TinyDepth) -> DepthModel:
    """Depth by a trained ``TinyDepth``: images are resized to its training size, and depth back to theirs."""

    def predict(image: np.ndarray, frame: str) -> np.ndarray:
        net.eval()
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
        pixels = resized(pixels.to(next(net.parameters()).device), net.size)
        with torch.inference_mode():
            return fitted(net(pixels)[0], image.shape[:2])

    digest = hashlib.sha256()
    for value in net.state_dict().values():
        digest.update(value.detach().cpu().numpy().tobytes())
    return DepthModel(f"tiny-{digest.hexdigest()[:8]}", predict, sum(p.numel() for p in net.parameters()))


def fitted(depth: Tensor, size: tuple[int, int]) -> np.ndarray:
    """(h, w) → (H, W), bilinear: a bicubic would overshoot and put points before and behind edges."""
    if tuple(depth.shape) != tuple(size):
        depth = F.interpolate(depth[None, None].float(), size, mode="bilinear", align_corners=False)[0, 0]
    return depth.float().cpu().numpy()


def focal_factor(known: Frame, image: np.ndarray, calibration: Calibration) -> float:
    """The factor on the depth of a network trained on the camera of ``known``, for an image of another camera: a longer
    lens makes things look larger, and so nearer, by the ratio of the focal lengths as shares of the image's width (as
    Yin et al. 2023, Metric3D, arXiv 2307.10984, section 3.1, do in training)."""
    longer = calibration.P2[0, 0] / image.shape[1]
    return longer / (known.calibration.P2[0, 0] / known.image_size[0])


# --- models of the hub ------------------------------------------------------------------------------------------


def hf_depth(model_id: str, max_depth: int = KITTI_MAX, factor: float = 1.0) -> DepthModel:
    """A Hugging Face model that predicts metres: GLPN, or a metric Depth Anything.

    GLPN gives sigmoid · ``config.max_depth`` and the library's default for that is 10, also for the weights trained on
    KITTI, where it was 80: hence the "factor 8" of the original. Here it is set once, and nothing else is needed.

    Args:
        model_id: on the hub, or a folder.
        max_depth: what a GLPN was trained with, in whole metres: 80 on KITTI, 10 on NYU.
        factor: multiplies the depth, for weights that need it.

    Raises:
        InputError: transformers missing; a model that cannot be loaded or is relative or unknown; a factor that
            takes depth beyond 80 m, that is, scales twice.
    """
    transformers = import_transformers()
    with reachable(f"hf:{model_id}", "a depth model of Hugging Face's hub, or a folder that holds one", random=""):
        config = transformers.AutoConfig.from_pretrained(model_id)
        limit = metric_limit(model_id, config, max_depth)
        if factor != 1 and limit * factor > KITTI_MAX:
            raise InputError(
                f"hf:{model_id}: a factor of {factor:g} would scale twice: the model's depth already "
                f"reaches {limit:g} m, expected a factor of 1"
            )
        processor = transformers.AutoImageProcessor.from_pretrained(model_id)
        model = transformers.AutoModelForDepthEstimation.from_pretrained(model_id, config=config).eval()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)

    def predict(image: np.ndarray, frame: str) -> np.ndarray:
        inputs = processor(images=image, return_tensors="pt").to(device)
        with torch.inference_mode():
            return factor * fitted(model(**inputs).predicted_depth[0], image.shape[:2])

    return DepthModel(f"hf-{model_id}-{limit * factor:g}m", predict, sum(p.numel() for p in model.parameters()))


def import_transformers() -> ModuleType:
    """The package transformers. Raises InputError if it is not installed."""
    try:
        import transformers
    except ImportError:
        raise InputError("depth by 'hf:...' needs the package transformers: pip install 'kdnb[full]'") from None
    return transformers


def metric_limit(model_id: str, config: Any, max_depth: int) -> float:
    """The largest depth in metres that a model can predict; a GLPN's ``config.max_depth`` is set to ``max_depth``.

    Raises InputError for a model whose depth is relative or unknown.
    """
    kind, expected = config.model_type, "expected GLPN (such as vinvino02/glpn-kitti) or a metric Depth Anything"
    if kind == "glpn":
        config.max_depth = max_depth
        return max_depth
    if kind == "depth_anything" and config.depth_estimation_type == "metric":
        return config.max_depth
    if kind in ("depth_anything", "dpt"):
        raise InputError(
            f"hf:{model_id}: gives relative (inverse) depth, whose scale and shift are unknown: it cannot "
            f"be turned into points in metres; {expected}"
        )
    raise InputError(f"hf:{model_id}: {kind!r} is not known to give depth in metres; {expected}")


# --- files ------------------------------------------------------------------------------------------------------


def folder_depth(folder: str | Path) -> DepthModel:
    """Depth from files ``<frame>.png`` (16 bits, metres x 256, as KITTI's depth benchmark has them) or ``<frame>.npy``.

    Raises InputError for a missing folder; the model does so for a frame with a missing or invalid file.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder, expected depth files <frame>.png or <frame>.npy")

    def predict(image: np.ndarray, frame: str) -> np.ndarray:
        for path, read in ((root / f"{frame}.png", read_depth_png), (root / f"{frame}.npy", read_depth_npy)):
            if path.is_file():
                return read(path)
        raise InputError(f"{root / frame}.png: no such file, and no .npy, expected the depth of this frame")

    return DepthModel(f"folder-{root.resolve()}", predict)


def read_depth_png(path: Path) -> np.ndarray:
    """float32 (H, W), metres, 0 for unknown, from a 16-bit image of metres x 256 (KITTI depth development kit)."""
    with opened(path, "16-bit PNG") as image:
        mode, values = image.mode, np.asarray(image)
    if not mode.startswith("I"):
        raise InputError(f"{path}: an image of mode {mode}, expected a 16-bit PNG of metres x 256")
    return values.astype(np.float32) / 256


def read_depth_npy(path: Path) -> np.ndarray:
    """float32 (H, W), metres, from an array of floating point numbers."""
    try:
        values = np.load(path, allow_pickle=False)
    except NPY_ERRORS as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: not a readable array ({reason}), expected metres (height, width)") from None
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind != "f":
        what = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else "several arrays"
        raise InputError(f"{path}: {what}, expected floating point metres (height, width)")
    with np.errstate(over="ignore"):  # becomes infinite, that is, unknown
        return values.astype(np.float32)
