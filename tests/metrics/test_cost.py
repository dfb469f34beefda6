"""Costs against counts done by hand."""

import pytest
import torch
from torch import nn

from kdnb.metrics import cost
from kdnb.metrics.cost import count_flops, count_parameters, latency_ms, state_dict_mb


def model():
    # 3x3 convolution from 3 to 8 channels with bias: 8 * 3 * 9 + 8 = 224; BatchNorm: 16; linear from 8 to 5: 45.
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    ).eval()


def test_parameters_frozen_ones_included_shared_ones_once():
    net = model().requires_grad_(False)
    assert count_parameters(net) == 224 + 16 + 45
    shared = nn.Linear(4, 4)
    assert count_parameters(nn.ModuleList([shared, shared])) == 20


def test_flops_count_a_multiply_add_as_two():
    net, image = model(), torch.zeros(1, 3, 10, 12)
    # 10 * 12 places, 8 outputs of 27 products each; then 5 outputs of 8 products.
    assert count_flops(lambda: net(image)) == 2 * (10 * 12 * 8 * 27 + 5 * 8)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_flops_of_attention_are_counted_in_every_mode(mode):
    net, tokens = nn.MultiheadAttention(8, 2, batch_first=True).eval(), torch.zeros(1, 5, 8)
    # 5 tokens of 8: query, key, value and output projections; then 2 heads of 4: scores and weighted sum over 5 x 5.
    with mode():
        assert count_flops(lambda: net(tokens, tokens, tokens)) == 2 * (5 * 8 * 32 + 2 * 2 * 5 * 5 * 4)
    assert torch.backends.mha.get_fastpath_enabled()


def test_latency_is_the_median_of_calls_in_turn_and_threads_are_restored(monkeypatch):
    clock, calls, before = [0.0], [], torch.get_num_threads()
    monkeypatch.setattr(cost.time, "perf_counter", lambda: clock[0])

    def step(name, seconds):
        calls.append(name)
        assert torch.get_num_threads() == 1
        first_or_last_turn = len(calls) <= 4 or len(calls) > 14  # two turns of warm-up, and one hiccup
        clock[0] += seconds * (100 if first_or_last_turn else 1)

    fns = {"teacher": lambda: step("teacher", 0.02), "student": lambda: step("student", 0.005)}
    times = latency_ms(fns, repeats=6, warmup=2)
    assert calls == ["teacher", "student"] * 8 and torch.get_num_threads() == before
    assert times == pytest.approx({"teacher": 20, "student": 5})


def test_a_slow_call_is_not_repeated_for_hours(monkeypatch):
    clock, calls = [0.0], []
    monkeypatch.setattr(cost.time, "perf_counter", lambda: clock[0])

    def step():
        calls.append(1)
        clock[0] += 200

    assert latency_ms({"diffusion": step}, at_most=300) == {"diffusion": pytest.approx(200_000)}
    assert len(calls) == 2


def test_threads_are_restored_after_a_failure():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ZeroDivisionError):
            latency_ms({"bad": lambda: 1 / 0})
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_size_in_megabytes():
    # 285 parameters and 16 statistics of 4 bytes, and BatchNorm's counter of 8.
    assert state_dict_mb(model()) == pytest.approx((4 * (285 + 16) + 8) / 1e6)
