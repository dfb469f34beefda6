"""Terms that teach a segmenter the teacher's class probabilities of each pixel, in labelled frames and in others.

Both networks give "logits" (N, C, H, W) of the same size. Every loss is a mean per pixel or per class, so it does not
depend on N, H or W; it is 0 when both agree, and the teacher never gets a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnb.distill.checks import MAP, pair, positive_temperature, precise, require_shape
from kdnb.distill.losses import feature_mse, kd_kl, kl_terms, pkd
from kdnb.distill.terms import Term
from kdnb.errors import InputError


def pixel_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    class_weights: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """``kd_kl`` of each pixel, averaged over the pixels of a mask with the weights of ``pixel_weights``.

    Args:
        student_logits, teacher_logits: (N, C, H, W).
        temperature: both are divided by it, the loss is multiplied by its square.
        class_weights: (C,) positive, those of the task loss; only their ratios count. None weights pixels alike.
        mask: (N, H, W) bool. None takes all pixels, an empty one gives 0.

    Raises:
        InputError: shapes that do not match, a temperature that is not above 0.
    """
    student, teacher = same_shape(student_logits, teacher_logits)
    positive_temperature(temperature)
    student, log_p = (F.log_softmax(logits / temperature, 1) for logits in (student, teacher))
    # masked afterwards: picking the pixels before the softmax takes three times as long
    per_pixel = kl_terms(student, log_p).sum(1)
    return temperature**2 * weighted_mean(per_pixel, pixel_weights(teacher, class_weights), mask)


def pixel_mse(
    student_logits: Tensor, teacher_logits: Tensor, class_weights: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """``centred_mse`` of each pixel, averaged as in ``pixel_kl``, which tends to half of it at high temperatures.

    Logits must be finite. Raises InputError for shapes that do not match.
    """
    student, teacher = same_shape(student_logits, teacher_logits)
    if student.numel() == 0:
        return student.sum()
    difference = student - teacher
    per_pixel = (difference - difference.mean(1, keepdim=True)).pow(2).mean(1)
    return weighted_mean(per_pixel, pixel_weights(teacher, class_weights), mask)


def channel_kl(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0, mask: Tensor | None = None
) -> Tensor:
    """Where does each class lie? KL of two softmaxes over the *pixels*, mean over classes and frames, times T².

    CWD (Shu et al. 2021, arXiv 2011.13256, section 3.2). It uses log_softmax, because the probability of one pixel of
    a large map can be too small for float32.

    Args:
        student_logits, teacher_logits: (N, C, H, W).
        mask: (N, H, W) bool; pixels outside it get probability 0.

    Raises:
        InputError: shapes that do not match, a temperature that is not above 0.
    """
    student, teacher = same_shape(student_logits, teacher_logits)
    if mask is not None:
        require_shape("the mask", mask, _pixels(student), "(N, H, W)")
        outside = ~mask[:, None].bool().to(student.device)
        student, teacher = (logits.masked_fill(outside, -1e4) for logits in (student, teacher))
    return kd_kl(student.flatten(2), teacher.flatten(2), temperature, dim=2)


def pixel_weights(teacher_logits: Tensor, class_weights: Tensor | None) -> Tensor | None:
    """(N, H, W): each pixel's weight in a class-weighted loss, 1 / Σ_c p(c)/w_c with the teacher's probabilities p.

    Cross-entropy weighted by w, with labels sampled from q, is, up to a constant, W · KL(r ‖ student) with r = w·q / W
    and W = Σ_c w_c q_c. A teacher trained with these weights predicts p = r; then q ∝ p/w, and W is the expression
    above: the pixel's weight beside a plain KL. (A teacher trained without weights predicts q: add log w to its logits
    first.) The sum Σ_c w_c p(c) log(p(c)/student(c)) is no alternative: its minimum is not where the student agrees.

    Args:
        teacher_logits: (N, C, H, W).
        class_weights: (C,) positive; None gives None: all pixels alike.

    Raises:
        InputError: not as many weights as classes.
    """
    if class_weights is None:
        return None
    require_shape("the class weights", class_weights, teacher_logits.shape[1:2], "(C,)")
    weights = class_weights.to(teacher_logits).view(1, -1, 1, 1)
    return 1 / (teacher_logits.detach().softmax(1) / weights).sum(1)


def weighted_mean(per_pixel: Tensor, weights: Tensor | None, mask: Tensor | None) -> Tensor:
    """Weighted mean of a map (N, H, W) within a mask; an empty mask gives 0, still in the graph.

    Raises InputError for a mask of another shape.
    """
    if per_pixel.numel() == 0:
        return per_pixel.sum()
    if weights is None and mask is None:
        return per_pixel.mean()
    weights = torch.ones_like(per_pixel) if weights is None else weights
    if mask is not None:
        require_shape("the mask", mask, per_pixel.shape, "(N, H, W)")
        weights = weights * mask.to(weights)
    return (per_pixel * weights).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def same_shape(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float32, the teacher's without gradient. Raises InputError unless both are (N, C, H, W), of one shape."""
    student, teacher = pair(student_logits, teacher_logits, "logits", ": interpolate them first")
    require_shape("the student's logits", student, (None,) * 4, MAP)
    return student, teacher


def _pixels(logits: Tensor) -> tuple[int, int, int]:
    count, _, height, width = logits.shape
    return count, height, width


def dead_kl(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 5.0, factor: float = 0.1, largest: float = 1.0
) -> Tensor:
    """Not for training: the KL of DIFF's released code, to show why it teaches nothing.

    "batchmean" divides by N alone, so the value grows with H·W; the clamp then cuts both the value and the gradient
    (Yux1angJi/DIFF, mmseg/models/segmentors/encoder_decoder.py, with these defaults).
    """
    student, teacher = same_shape(student_logits, teacher_logits)
    positive_temperature(temperature)
    if student.numel() == 0:
        return student.sum()
    student, teacher = F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1)
    return (factor * temperature**2 * F.kl_div(student, teacher, reduction="batchmean")).clamp(max=largest)


# --- terms ------------------------------------------------------------------------------------------------------


def taught_pixels(student_outputs: dict, ignore_index: int) -> Tensor:
    """(N, H, W) bool: all pixels of an unlabelled frame, and the pixels of a labelled frame that have a class.

    Annotators leave pixels without a class where none fits, such as the own car's bonnet; they are never scored.

    Args:
        student_outputs: with "labels" (N, H, W) and "labelled" (N,) bool.
        ignore_index: the label of pixels without a class.
    """
    return (student_outputs["labels"] != ignore_index) | ~student_outputs["labelled"][:, None, None]


def response_terms(
    kind: str = "kl",
    temperature: float = 1.0,
    weight: float | Callable[[float], float] = 1.0,
    class_weights: Tensor | None = None,
    *,
    ignore_index: int,
) -> list[Term]:
    """One term on the logits, "kd_kl", "kd_mse" or "kd_channel", over the ``taught_pixels``.

    Args:
        kind: "kl" (per pixel), "mse" (class-centred; has no temperature) or "channel" (CWD; has no class weights).
        weight: a number, or a function of progress in [0, 1].
        class_weights: (C,) positive; None weights pixels alike.
        ignore_index: the label of pixels without a class.

    Raises:
        InputError: an unknown kind, a class weight that is not positive.
    """
    if class_weights is not None and not bool((class_weights > 0).all()):
        raise InputError(f"class weights are {class_weights.tolist()}, expected numbers above 0")

    def pixelwise_kl(student, teacher, mask):
        return pixel_kl(student, teacher, temperature, class_weights, mask)

    def pixelwise_mse(student, teacher, mask):
        return pixel_mse(student, teacher, class_weights, mask)

    def channelwise_kl(student, teacher, mask):
        return channel_kl(student, teacher, temperature, mask)

    losses = {"kl": pixelwise_kl, "mse": pixelwise_mse, "channel": channelwise_kl}
    if kind not in losses:
        raise InputError(f"unknown response loss {kind!r}, expected one of {list(losses)}")
    mask = partial(taught_pixels, ignore_index=ignore_index)
    return [Term(f"kd_{kind}", losses[kind], "logits", "logits", mask=mask, weight=weight)]


def feature_terms(
    channels: tuple[int, int], kind: str = "pkd", weight: float | Callable[[float], float] = 1.0
) -> list[Term]:
    """One term, "kd_features", on the maps before the logits. It has no mask: a cell's receptive field is many pixels.

    Args:
        channels: of the student's and of the teacher's "features"; a 1x1 convolution maps the former to the latter.
        kind: "pkd" (correlation, blind to magnitudes) or "mse".
        weight: a number, or a function of progress in [0, 1].

    Raises:
        InputError: an unknown kind.
    """
    if kind not in ("pkd", "mse"):
        raise InputError(f"unknown feature loss {kind!r}, expected 'pkd' or 'mse'")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapter = nn.Conv2d(*channels, 1)

    def compare(student, teacher):
        maps = torch.is_tensor(teacher) and teacher.ndim == student.ndim == 4
        if maps and teacher.shape[2:] != student.shape[2:] and 0 not in (*teacher.shape[1:], *student.shape[2:]):
            teacher = F.interpolate(precise(teacher), student.shape[2:], mode="bilinear", antialias=True)
        return feature_mse(student, teacher) if kind == "mse" else pkd([student], [teacher])

    return [Term("kd_features", compare, "features", "features", adapter, weight=weight)]


def teacher_step(teacher: nn.Module, batch: dict, student_outputs: dict | None) -> dict:
    """The teacher on the student's images: {"logits", "features"}."""
    return teacher(batch["images"])
