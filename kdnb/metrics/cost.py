"""What a model costs: parameters, floating-point operations, time for one image, megabytes."""

import statistics
import time

import torch
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model):
    """Number of parameters, frozen ones included, shared ones once; buffers (BatchNorm statistics) not counted."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(fn):
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


def latency_ms(fns, repeats=30, warmup=5, threads=1, at_most=300.0):
    """Median milliseconds of one call of each function in ``fns`` (name -> callable): ``{name: ms}``.

    The functions take turns in one run, so that a machine that slows down slows all of them. ``threads`` is set for
    the run and restored. Functions are called as they are: put ``torch.inference_mode()`` and ``eval`` into them.
    After ``at_most`` seconds no new turn begins: a diffusion model takes minutes for one call on a CPU.
    """
    times = {name: [] for name in fns}
    before, began = torch.get_num_threads(), time.perf_counter()
    torch.set_num_threads(threads)
    try:
        for turn in range(warmup + repeats):
            if turn and time.perf_counter() - began > at_most:
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


def state_dict_mb(model):
    """Megabytes (10^6 bytes) of all tensors in the state dict, as a file of plain weights would hold them."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()) / 1e6
