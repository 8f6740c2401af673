"""Compositions of the parts, from the real options: a pairwise-covering set runs a step, with gradients everywhere."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from latentlab.cli.checks import check_config
from latentlab.objectives import AnalyticELBO
from latentlab.run.trust import check_trusted

CONF = Path(__file__).parent.parent / "conf"
LIKELIHOODS = [
    "bernoulli",
    "continuous_bernoulli",
    "gaussian_fixed",
    "gaussian_shared",
    "gaussian_per_pixel",
    "gaussian_predicted",
    "discretised_logistic",
]
LATENTS = [
    (prior, posterior)
    for prior in ("standard_normal", "mog", "flow", "vamp")
    for posterior in ("diagonal_normal", "full_rank_normal")
] + [("categorical", "gumbel_softmax"), ("vamp", "gumbel_softmax")]
NETWORKS = ["mlp", "gated_mlp", "linear", "cnn", "resnet"]
# Every likelihood with every pair of prior and posterior; the networks run through all pairs beside them.
ROWS = [
    (*latents, likelihood, NETWORKS[(i + j) % 5], NETWORKS[(i + 2 * j) % 5])
    for i, latents in enumerate(LATENTS)
    for j, likelihood in enumerate(LIKELIHOODS)
]
SMALLER = {
    "mlp": ["hidden=[16]"],
    "gated_mlp": ["hidden=[16]"],
    "linear": [],
    "cnn": ["hidden=[16]", "channels=[8,8]"],
    "resnet": ["hidden=[16]", "channels=[8,8]", "blocks=1"],
}


def composed(prior, posterior, likelihood, encoder, decoder):
    small = [
        *[f"encoder.{word}" for word in SMALLER[encoder]],
        *[f"decoder.{word}" for word in SMALLER[decoder]],
        *(["prior.num_components=4"] if prior in ("mog", "vamp") else []),
        *(["prior.flow.transforms=2", "prior.flow.hidden_features=[8]"] if prior == "flow" else []),
    ]
    parts = [
        f"prior={prior}", f"posterior={posterior}", f"likelihood={likelihood}",
        f"encoder={encoder}", f"decoder={decoder}",
    ]  # fmt: skip
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*parts, *small, "model.latent_dim=3", "likelihood.initialise_bias=true"])
    # `names` and `callbacks` need a running Hydra; the model needs neither.
    raw = OmegaConf.to_container(cfg)["model"]
    model = OmegaConf.to_container(cfg.model, resolve=True)
    check_config(raw, model, "model")
    check_trusted(model, "model")
    return instantiate(model)


def test_rows_cover_all_pairs():
    columns = list(zip(*ROWS, strict=True))
    # Priors and posteriors are paired by LATENTS; every other two columns meet in every way.
    for first in range(5):
        for second in range(max(first + 1, 2), 5):
            met = set(zip(columns[first], columns[second], strict=True))
            possible = len(set(columns[first])) * len(set(columns[second]))
            assert len(met) == possible, (first, second)


@pytest.mark.parametrize("row", ROWS, ids="-".join)
def test_composition_trains_every_parameter(row):
    model = composed(*row).double()
    images = torch.rand(6, 1, 28, 28).double()
    x = (images * 255).round() / 255 if "continuous" not in row[2] else images
    x = x.round() if row[2] == "bernoulli" else x
    model.initialise(x)
    AnalyticELBO(samples=2)(model, x).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
    with torch.no_grad():
        for samples in (1, 3):
            assert model(x, samples=samples).log_w.shape == (samples, 6)
        assert model.generate(3).shape == model.generate(3, mean=True).shape == (3, 1, 28, 28)
        assert model.reconstruct(x).shape == x.shape
        assert model.encode(x).shape == model.posterior_mean(x).shape == (6, model.latent_dim)


@pytest.mark.parametrize("group", ["prior", "posterior", "likelihood", "encoder", "decoder"])
def test_every_option_says_what_it_is(group):
    for path in (CONF / group).glob("*.yaml"):
        assert path.read_text().startswith("# "), path
