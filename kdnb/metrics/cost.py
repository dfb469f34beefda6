"""What a model costs: parameters, floating-point operations, time for one image, megabytes."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, frozen ones included, shared ones once; buffers (BatchNorm statistics) not counted."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(fn: Callable[[], object]) -> int:
    """Floating-point operations of one call of ``fn()``, as torch counts them: matrix products and convolutions, a
    multiply-add as two. Element-wise layers, NMS and RoIAlign are not counted."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused attention of eval mode would count as nothing
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            fn()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops()


def latency_ms(
    fns: Mapping[str, Callable[[], object]],
    repeats: int = 30,
    warmup: int = 5,
    threads: int = 1,
    at_most: float = 300.0,
) -> dict[str, float]:
    """Median milliseconds of one call of each function in ``fns`` (name -> callable): ``{name: ms}``.

    The functions take turns, so that a machine that slows down slows all of them. ``threads`` is set for the run and
    restored. Functions are called as they are: put ``torch.inference_mode()`` and ``eval`` into them. No new round
    begins after ``at_most`` seconds: one call of a diffusion model takes minutes on a CPU.
    """
    times: dict[str, list[float]] = {name: [] for name in fns}
    before, began = torch.get_num_threads(), time.perf_counter()
    torch.set_num_threads(threads)
    try:
        for i in range(warmup + repeats):
            if i and time.perf_counter() - began > at_most:
                break
            for name, fn in fns.items():
                start = time.perf_counter()
                fn()
                if torch.cuda.is_initialized():
                    torch.cuda.synchronize()
                times[name].append(1000 * (time.perf_counter() - start))
    finally:
        torch.set_num_threads(before)
    return {name: statistics.median(values[min(warmup, len(values) - 1) :]) for name, values in times.items()}


def state_dict_mb(model: nn.Module) -> float:
    """Megabytes (10^6 bytes) of all tensors in the state dict, as a file of plain weights would hold them."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()) / 1e6
