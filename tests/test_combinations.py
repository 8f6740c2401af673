"""Pairs of options: each pair trains a step or is refused with the options that work."""

import re
from itertools import combinations, product

import pytest
import torch
from hydra.utils import instantiate
from parts import (
    assembled,
    built,
    composed,
    examples,
    never_trained,
    options,
    refusal,
    smaller,
    step,
    untrained,
)

CLASSICAL = (
    "ppca",
    "cavi_earthquakes",
    "em_mixture",
    "cavi_mixture",
    "svi_mixture",
    "cavi_lda",
    "svi_lda",
    "cavi_normal_gamma",
    "bbvi_normal_gamma",
    "advi_normal_gamma",
    "advi_earthquakes",
    "gamma_mle",
    "mean_field_gaussian",
)
FACTORS = {
    "model": ["vae", "conditional_vae"],
    **{
        group: options(group)
        for group in ("encoder", "decoder", "prior", "posterior", "likelihood", "objective")
    },
}
# A protocol that each likelihood scores.
FITTING = {"bernoulli": "threshold", "discretised_logistic": "discrete", "categorical": "discrete"}
# The words that refuse a pair, and the pairs that they refuse.
DENSITIES, PATHWISE = ("standard_normal", "mog", "flow"), ("stl", "iwae", "dreg", "miwae", "piwae", "ciwae")
REFUSALS = {
    "one-hot latents: choose prior=categorical": lambda c: (
        c.get("posterior") == "gumbel_softmax" and c.get("prior") in DENSITIES
    ),
    "prior of one-hot latents": lambda c: (
        c.get("posterior") not in ("gumbel_softmax", None) and c.get("prior") == "categorical"
    ),
    "discrete latents are relaxed": lambda c: (
        c.get("posterior") == "gumbel_softmax" and c.get("objective") in PATHWISE
    ),
    "Reconstruction is not a bound": lambda c: c.get("objective") == "reconstruction",
    "LogPrior is not a bound": lambda c: c.get("objective") == "log_prior",
    "VLB needs a bound": lambda c: c.get("objective") == "vlb",
    "SemiSupervised needs a model": lambda c: c.get("objective") == "semi_supervised",
    "LatentDiffusion needs a bound": lambda c: c.get("objective") == "latent_diffusion",
}
# The objectives of other models than VAEs.
OF_OTHER_MODELS = ("reconstruction", "log_prior", "semi_supervised", "vlb", "latent_diffusion")
# What a model needs besides. A latent_ddpm trains its parts one after the other, see test_latent_diffusion.
BESIDES = {
    "flow": ("data=continuous_digits", "protocol=dequantised"),
    "expost": ("model.pretrained=best.ckpt", "prior=mog"),
    "expost_autoencoder": ("model.pretrained=best.ckpt", "prior=mog"),
}
# Options that need another one to be built.
REQUIRED = {("prior", "categorical"): {"posterior": "gumbel_softmax"}}


def words(choices):
    """The words that refuse choices, or None."""
    return next((words for words, applies in REFUSALS.items() if applies(choices)), None)


def allowed(choices):
    whole = {key: value for choice in choices.items() for key, value in REQUIRED.get(choice, {}).items()}
    return words(whole | choices) is None


def pairs():
    for (a, xs), (b, ys) in combinations(FACTORS.items(), 2):
        yield from ({a: x, b: y} for x, y in product(xs, ys))


def pairs_in(row):
    return set(combinations(sorted(row.items()), 2))


def covering(seed=0):
    """Rows of options, chosen greedily, that hold every allowed pair."""
    draws = torch.Generator().manual_seed(seed)
    missing = {tuple(sorted(pair.items())) for pair in pairs() if allowed(pair)}
    rows = []
    while missing:
        best = {}
        for _ in range(30):
            row = dict(min(missing, key=str))
            for index in torch.randperm(len(FACTORS), generator=draws).tolist():
                name = list(FACTORS)[index]
                if name not in row:
                    fitting = [option for option in FACTORS[name] if allowed(row | {name: option})]
                    gains = [len(pairs_in(row | {name: option}) & missing) for option in fitting]
                    row[name] = fitting[gains.index(max(gains))]
            best = max(best, row, key=lambda each: len(pairs_in(each) & missing))
        rows.append(best)
        missing -= pairs_in(best)
    return rows


ROWS = covering()
# Objectives that are refused for every VAE are tried with each model alone.
REFUSED = [
    pair
    for pair in pairs()
    if words(pair) and ("model" in pair or pair.get("objective") not in OF_OTHER_MODELS)
]


def configured(choices):
    protocol = FITTING.get(choices.get("likelihood", "bernoulli"), "continuous")
    return assembled(**{"model": "vae", "protocol": protocol} | choices)


def test_every_pair_is_covered_or_refused():
    covered = {frozenset(pair) for row in ROWS for pair in combinations(row.items(), 2)}
    for pair in pairs():
        assert (frozenset(pair.items()) in covered) == allowed(pair), pair
    assert all(words(row) is None for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row.values()))
def test_a_row_trains_every_parameter_and_has_all_outputs(row):
    config = configured(row)
    module, batch = built(config), examples(instantiate(config.protocol))
    assert untrained(step(module, batch)) == []
    model, x = module.model, module.model.observe(batch)
    with torch.no_grad():
        assert model(x, samples=3).log_w.shape == (3, 6)
        assert model.generate(2).shape == model.generate(2, mean=True).shape == (2, 1, 28, 28)
        assert model.reconstruct(x).shape == batch.x.shape
        assert model.encode(x).shape == model.posterior_mean(x).shape == (6, model.latent_dim)


@pytest.mark.parametrize("pair", REFUSED, ids=lambda pair: "-".join(pair.values()))
def test_a_pair_is_refused_with_options_that_work(pair):
    required = {} if "prior" in pair else {"prior": "vamp"}
    said = refusal(configured(required | pair))
    assert said is not None and words(pair) in said and re.search(r"choose .*\w+=\w+", said), said


@pytest.mark.parametrize("option", ["iaf", "maf"])
def test_a_diffusion_prior_refuses_a_posterior_without_an_entropy(option):
    assert "choose posterior=diagonal_normal" in refusal(assembled("latent_vdm", posterior=option))


def test_every_optimiser_takes_a_step():
    for option in options("optimizer"):
        config = configured({"optimizer": option})
        assert never_trained(built(config), examples(instantiate(config.protocol))) == []


def test_every_scheduler_changes_the_rate_over_a_training():
    for option in options("scheduler"):  # plateau tolerates ten validations
        module = built(configured({"scheduler": option}))
        optimizer = module.make_optimizer(module.parameters())
        scheduler, seen = module.schedule.scheduler(optimizer, training=12), set()
        for _ in range(13):
            seen.add(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step(*([0.0] if module.schedule.monitored else []))
        assert (len(seen) == 1) == (option == "none"), (option, seen)


@pytest.mark.parametrize("model", sorted({*options("model")} - {*CLASSICAL, "latent_ddpm"}))
def test_every_model_trains_a_step_and_is_scored(model):
    config = smaller(composed(f"model={model}", *BESIDES.get(model, ())))
    module, batch = built(config), examples(instantiate(config.protocol))
    frozen = {name for name, weight in module.named_parameters() if not weight.requires_grad}
    assert set(never_trained(module, batch)) <= frozen
    terms = module.model.terms(module.model.observe(batch), samples=2)
    assert module.model.bound in terms and all(term.shape == (6,) for term in terms.values())
