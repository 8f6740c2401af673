"""Each protocol, compared with its equation."""

import pytest
import torch

from latentlab.data.loader import seeded
from latentlab.protocols import (
    Continuous,
    Dequantised,
    Discrete,
    Dynamic,
    FourBit,
    Protocol,
    Static,
    Threshold,
)

LEVELS = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1)
GREY = [Threshold(), Dynamic(), Continuous(), Dequantised(), Discrete(), FourBit()]


@pytest.mark.parametrize("protocol", GREY, ids=lambda protocol: protocol.name)
def test_every_level_gives_float32_of_the_same_shape_in_the_unit_interval(protocol: Protocol) -> None:
    x = protocol(LEVELS, seeded(0))
    assert x.dtype == torch.float32
    assert x.shape == LEVELS.shape
    assert x.min() >= 0 and x.max() <= 1
    assert protocol.levels is None or len(x.unique()) == protocol.levels


def test_threshold_is_one_above_one_half() -> None:
    assert torch.equal(Threshold()(LEVELS, seeded(0)), (LEVELS.double() / 255 > 0.5).float())


def test_dynamic_draws_each_level_with_its_own_probability() -> None:
    n = 20_000
    draws = Dynamic()(LEVELS.expand(256, n, 1, 1).contiguous(), seeded(1)).flatten(1).double()
    p = LEVELS.flatten().double() / 255
    assert draws[0].sum() == 0 and draws[255].sum() == n  # black and white are certain
    z = (draws.mean(1) - p)[1:-1] / (p * (1 - p) / n).sqrt()[1:-1]
    # 254 standard normals: the largest exceeds 5 with probability 1.5e-4, their mean square 1.5 with 1e-7.
    assert z.abs().max() < 5
    assert 0.6 < z.square().mean() < 1.5


def test_static_keeps_zero_and_one() -> None:
    assert Static()(LEVELS[:2], seeded(0)).flatten().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("protocol", [Continuous(), Discrete()], ids=lambda protocol: protocol.name)
def test_grey_levels_are_multiples_of_1_255(protocol: Protocol) -> None:
    assert torch.equal(protocol(LEVELS, seeded(0)), LEVELS.float() / 255)


def test_four_bits_are_the_high_bits() -> None:
    assert torch.equal(FourBit()(LEVELS, seeded(0)).mul(15).round().long(), LEVELS.long() >> 4)


def test_dequantised_floors_to_its_level_and_fills_it_uniformly() -> None:
    n = 40_000
    pixels = LEVELS.expand(256, n, 1, 1).contiguous()
    x = Dequantised()(pixels, seeded(2))
    assert x.max() < 1
    assert torch.equal((x * 256).floor(), pixels.float())
    u = ((x.double() * 256) - pixels).flatten(1)
    z = (u.mean(1) - 0.5) * (12 * n) ** 0.5
    assert z.abs().max() < 5
    assert torch.allclose(u.var(1), torch.tensor(1 / 12, dtype=torch.float64), rtol=0.05)


@pytest.mark.parametrize("protocol", [Dynamic(), Dequantised()], ids=lambda protocol: protocol.name)
def test_a_draw_is_fixed_by_its_generator_alone(protocol: Protocol) -> None:
    before = torch.get_rng_state()
    first, second, other = (protocol(LEVELS, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_bits_per_dimension_are_defined_for_discrete_data_only() -> None:
    offsets = {protocol.name: protocol.bits_offset for protocol in [*GREY, Static()]}
    assert offsets == {
        "threshold": 0, "dynamic": 0, "static": 0, "discrete": 0, "four_bit": 0, "dequantised": 8, "continuous": None,
    }  # fmt: skip
