"""Points in the plane: their densities against their draws, and models of them."""

from math import e, log, pi, sqrt

import pytest
import torch
from commands import call, refusal
from runs import summary

from latentlab.data import Chequerboard, CorrelatedNormal, Moons, PointData, Points, TwoGaussians
from latentlab.data.loader import seeded
from latentlab.errors import UserError
from latentlab.protocols import Continuous, Real

SETS = [CorrelatedNormal(), TwoGaussians(), Chequerboard(), Moons()]
TOY = (
    "logger=none",
    "trainer.max_epochs=1",
    "data.batch_size=10",
    "data.number=400",
    "data.val_size=100",
    "data.test_number=200",
)


def cells(number: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The edges of cells on [-4, 4] x [-4, 4], the centres of finer ones, and the volume of these."""
    edges, fine = torch.linspace(-4, 4, number + 1), 10
    steps = (torch.arange(number * fine) + 0.5) * 8 / (number * fine) - 4
    return edges, torch.cartesian_prod(steps, steps), (8 / (number * fine)) ** 2


@pytest.mark.parametrize("points", SETS, ids=lambda each: each.name)
def test_the_density_is_that_of_the_draws(points: Points) -> None:
    number, n = 20, 5000
    edges, centres, volume = cells(number)
    density = points.log_density(centres.double()).exp() * volume
    assert density.sum().item() == pytest.approx(1, abs=2e-3)
    expected = density.view(number, 10, number, 10).sum((1, 3)) * n
    x, y = points.sample(n, seeded(0))
    counts = torch.histogramdd(x.double(), [edges.double()] * 2).hist
    many = expected > 5
    chi = ((counts - expected)[many].square() / expected[many]).sum().item()
    freedom = int(many.sum()) - 1
    assert abs(chi - freedom) < 5 * sqrt(2 * freedom)  # about 1e-6 for a normal statistic
    assert y.shape == (n,) and y.dtype == torch.long


def test_the_entropy_of_closed_forms_is_the_mean_of_the_density() -> None:
    for points, entropy in [
        (CorrelatedNormal(0.8), log(2 * pi * e) + 0.5 * log(1 - 0.8**2)),
        (Chequerboard(), log(8)),
    ]:
        x, _ = points.sample(20_000, seeded(1))
        scores = points.log_density(x.double())
        error = float(scores.std() / sqrt(len(x)))
        assert abs(float(scores.mean()) + entropy) < 4 * error + 1e-6  # fails with probability 6e-5


def test_the_splits_are_separate_and_fixed() -> None:
    data = PointData(Real(), points=Moons(), number=50, test_number=20, val_size=10)
    assert data.shape == (2,) and data.num_examples == {"train": 40, "val": 10, "test": 20}
    again = PointData(Real(), points=Moons(), number=50, test_number=20, val_size=10, seed=3)
    assert torch.equal(data.test.x, again.test.x)
    assert not torch.equal(data.test.x, data.train.x[:20])
    assert data.full_name == "real_moons_noise-0.1_val_size-10_number-50_test_number-20"


def test_other_protocols_are_refused() -> None:
    with pytest.raises(UserError, match="protocol=real"):
        PointData(Continuous(), points=Moons())


def test_a_vae_and_a_diffusion_learn_points(tmp_path) -> None:
    for name, words in {
        "vae": [
            "model=vae",
            "likelihood=gaussian_shared",
            "model.latent_dim=2",
            "encoder.hidden=[8]",
            "decoder.hidden=[8]",
        ],
        "ddpm": ["experiment=toy_ddpm", "model.sample_steps=2"],
        "flow": ["experiment=toy_flow"],
    }.items():
        run = tmp_path / name
        done = call("train.py", *words, "data=two_gaussians", "figures=points", *TOY, f"hydra.run.dir={run}")
        assert done.status == 0, done.err
        assert summary(run)["test/elbo"] < 10
        done = call("evaluate.py", f"run={run}", "nll.samples=2" if name == "vae" else "nll.samples=0")
        assert done.status == 0, done.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["model=vae"], "gaussian"),
        (["model=vae", "likelihood=continuous_bernoulli"], "gaussian_shared"),
        (["model=vae", "likelihood=gaussian_shared", "encoder=cnn"], "encoder=mlp"),
        (["model=flow", "data.points.noise=-1"], "noise"),
        (["model=flow", "data=two_gaussians", "data.points.scale=0"], "scale"),
        (["model=flow", "data=chequerboard", "data.points.squares=3"], "squares"),
        (["model=flow"], "figures"),
        (["model=flow", "data=binarised_digits"], "dequantised"),
        (["model=vae", "data=binarised_digits", "protocol=real"], "moons"),
    ],
)
def test_what_does_not_fit_points_is_one_line(tmp_path, words, named) -> None:
    done = call("train.py", "data=moons", *words, "logger=none", f"hydra.run.dir={tmp_path}/run")
    assert named in refusal(done)
    assert not (tmp_path / "run").exists()
