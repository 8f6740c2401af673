"""Lengths, volumes and geodesics of decoders with known geometry."""

from itertools import product

import pytest
import torch
from parts import assembled, built
from torch import Tensor

from latentlab.errors import UserError
from latentlab.geometry import (
    decoder_means,
    energy,
    geodesics,
    jacobian,
    length,
    metric,
    squared_steps,
    straight_lines,
    volume,
)
from latentlab.likelihoods import EnsembleLikelihood

DOUBLE = torch.float64


def sphere(z: Tensor) -> Tensor:
    latitude, longitude = z.unbind(-1)
    ring = latitude.cos()
    return torch.stack([ring * longitude.cos(), ring * longitude.sin(), latitude.sin()], -1)


def catenoid(z: Tensor) -> Tensor:
    height, angle = z.unbind(-1)
    return torch.stack([height.cosh() * angle.cos(), height.cosh() * angle.sin(), height], -1)


def points(*rows: tuple[float, float]) -> Tensor:
    return torch.tensor(rows, dtype=DOUBLE)


def test_a_linear_decoder_has_straight_geodesics() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(5, 3, dtype=DOUBLE)
    start, end = torch.randn(2, 4, 3, dtype=DOUBLE)
    found = geodesics([lambda z: z @ matrix.T], start, end)
    expected = ((end - start) @ matrix.T).norm(dim=1)
    assert torch.allclose(found.lengths, expected) and torch.allclose(found.straight, expected)
    assert torch.allclose(found.curves, straight_lines(start, end, 20), atol=1e-6)
    assert found.converged.all()
    assert torch.allclose(metric([lambda z: z @ matrix.T], start), (matrix.T @ matrix).expand(4, 3, 3))


def test_geodesics_of_a_sphere_are_great_circles() -> None:
    start = points((0.9, 0.0), (0.5, -0.4), (-0.3, 0.2))
    end = points((0.9, 2.0), (-0.6, 1.5), (0.7, 1.0))
    found = geodesics([sphere], start, end, points=60)
    a, b = sphere(start), sphere(end)
    assert torch.allclose(found.lengths, (a * b).sum(1).acos(), rtol=1e-3)
    normal = torch.linalg.cross(a, b)
    off = sphere(found.curves) @ (normal / normal.norm(dim=1, keepdim=True))[..., None]
    assert off.abs().max() < 5e-3
    assert found.converged.all() and (found.lengths < found.straight).all()


def test_geodesics_of_a_surface_of_revolution_obey_clairaut() -> None:
    found = geodesics([catenoid], points((-1.0, 0.0)), points((0.8, 1.5)), points=80, rounds=60)
    z = found.curves[0]
    steps, middle = z.diff(dim=0), (z[1:] + z[:-1]) / 2
    g = middle[:, 0].cosh().square()  # G = cosh(height)^2 I
    speed = (g * steps.square().sum(1)).sqrt()
    assert speed.std() / speed.mean() < 0.01  # least energy has constant speed
    momentum = g * steps[:, 1] / speed  # radius * sin(angle to the meridian)
    assert momentum.std() / momentum.mean() < 0.02


def test_length_does_not_depend_on_the_coordinates() -> None:
    curve = straight_lines(points((0.2, 0.1)), points((0.9, 1.4)), 50)

    def stretched(z: Tensor) -> Tensor:  # inverse of z -> z^3
        return sphere(z.sign() * z.abs() ** (1 / 3))

    assert torch.allclose(length([sphere], curve), length([stretched], curve**3))
    # A volume is a density: it changes by the determinant of the change of coordinates.
    z = points((0.3, 0.5), (0.8, 0.9))
    expected = volume([stretched], z**3) * (3 * z.square()).prod(1)
    assert torch.allclose(volume([sphere], z), expected)
    assert torch.allclose(volume([sphere], z), z[:, 0].cos())


def test_the_energy_of_an_ensemble_is_the_mean_over_all_pairs() -> None:
    torch.manual_seed(1)
    matrices = torch.randn(3, 4, 2, dtype=DOUBLE)
    decoders = [lambda z, m=m: (z @ m.T).sin() for m in matrices]
    curves = torch.randn(2, 5, 2, dtype=DOUBLE)
    pairs = [
        (later(curves[:, 1:]) - earlier(curves[:, :-1])).square().sum(-1)
        for later, earlier in product(decoders, repeat=2)
    ]
    assert torch.allclose(squared_steps(decoders, curves), torch.stack(pairs).mean(0))
    assert torch.allclose(energy(decoders[:1] * 3, curves), energy(decoders[:1], curves))
    assert (energy(decoders, curves) > energy([lambda z: sum(d(z) for d in decoders) / 3], curves)).all()


def test_the_jacobian_of_a_network_is_that_of_reverse_mode() -> None:
    torch.manual_seed(2)
    (decoder,) = decoder_means(built(assembled("vae")).model.eval())
    z = torch.randn(2, 3)
    expected = torch.stack(
        [torch.autograd.functional.jacobian(lambda one: decoder(one[None])[0], each) for each in z]
    )
    assert torch.allclose(jacobian(decoder, z), expected, atol=1e-6)


def test_geometry_is_the_same_in_the_inference_mode_of_an_evaluation() -> None:
    start, end = points((0.9, 0.0), (0.3, 0.1)), points((0.5, 1.0), (0.3, 0.1))
    found = geodesics([sphere], start, end)
    with torch.inference_mode():
        again = geodesics([sphere], start.clone(), end.clone())
        assert torch.equal(volume([sphere], start.clone()), volume([sphere], start))
    assert torch.equal(again.curves, found.curves)
    assert found.converged.all() and found.lengths[1] == 0  # two equal ends


def ensemble(decoders: int):
    config = assembled("vae")
    config.module.model.decoders = decoders
    return built(config).model


def test_an_ensemble_trains_one_member_a_step_and_is_evaluated_by_the_mean_of_its_bounds() -> None:
    torch.manual_seed(3)
    model = ensemble(3)
    assert isinstance(model.likelihood, EnsembleLikelihood)
    x, z = torch.rand(4, 1, 28, 28).round(), torch.randn(2, 4, 3)
    each = torch.stack([member(z).log_prob(x) for member in model.likelihood.members])
    drawn = [model(x, zs=[z]).log_px_z for _ in range(30)]
    assert {int((each - values).abs().sum((1, 2)).argmin()) for values in drawn} == {0, 1, 2}
    assert torch.allclose(model.eval()(x, zs=[z]).log_px_z, each.mean(0))
    assert len(decoder_means(model)) == 3
    assert torch.allclose(model.decode(z[0]).flatten(1), sum(f(z[0]) for f in decoder_means(model)) / 3)
    assert model.generate(5).shape == (5, 1, 28, 28)


def test_one_decoder_is_the_vae_itself() -> None:
    torch.manual_seed(0)
    with_option = ensemble(1).state_dict()
    torch.manual_seed(0)
    plain = built(assembled("vae")).model.state_dict()
    assert list(with_option) == list(plain)
    assert all(torch.equal(with_option[name], plain[name]) for name in plain)


@pytest.mark.parametrize("model", ["vdm", "hierarchical_vae", "categorical_vae"])
def test_a_model_without_a_decoder_of_real_latents_has_no_geometry(model: str) -> None:
    with pytest.raises(UserError, match="no geometry"):
        decoder_means(built(assembled(model)).model)
