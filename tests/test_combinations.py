"""The real YAML of every option, alone and combined: it trains for a step, or is refused in a line of words."""

import re
from collections import Counter
from itertools import combinations, product

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
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
    "cavi_normal_gamma",
    "bbvi_normal_gamma",
    "gamma_mle",
    "mean_field_gaussian",
)
MODELS = ("vae", "conditional_vae")
PRIORS, POSTERIORS, LIKELIHOODS, OBJECTIVES = map(options, ("prior", "posterior", "likelihood", "objective"))
# A protocol that each likelihood scores, by the number of values of a pixel under it.
FITTING = {"bernoulli": "threshold", "discretised_logistic": "discrete"}

# What may not go together, and the words that say so.
REFUSALS = {
    "one-hot ones": lambda c: (
        c["posterior"] == "gumbel_softmax" and c["prior"] in ("standard_normal", "mog", "flow")
    ),
    "of one-hot latents": lambda c: c["posterior"] != "gumbel_softmax" and c["prior"] == "categorical",
    "discrete latents are relaxed": lambda c: (
        c["posterior"] == "gumbel_softmax" and c["objective"] in ("stl", "iwae", "dreg")
    ),
    "Reconstruction is no bound": lambda c: c["objective"] == "reconstruction",
    "VLB is the bound of a diffusion": lambda c: c["objective"] == "vlb",
}


def expected(choices):
    return next((words for words, applies in REFUSALS.items() if applies(choices)), None)


def configured(choices):
    return assembled(protocol=FITTING.get(choices["likelihood"], "continuous"), **choices)


def covering(factors, allowed, seed=0):
    """Greedily chosen rows of options such that every allowed pair of options of two factors is in one of them."""
    names, draws = list(factors), torch.Generator().manual_seed(seed)

    def pairs(row):
        return set(combinations(sorted(row.items()), 2))

    def pairs_of(two):
        return ({(a, x), (b, y)} for a, b in combinations(sorted(two), 2) for x in two[a] for y in two[b])

    missing = {tuple(sorted(pair)) for pair in pairs_of(factors) if allowed(dict(pair))}
    rows = []
    while missing:
        best = {}
        for _ in range(30):
            row = dict(min(missing, key=str))
            for index in torch.randperm(len(names), generator=draws).tolist():
                if (name := names[index]) not in row:
                    fitting = [o for o in factors[name] if allowed(row | {name: o})]
                    gains = [len(pairs(row | {name: o}) & missing) for o in fitting]
                    row[name] = fitting[gains.index(max(gains))]
            best = max(best, row, key=lambda each: len(pairs(each) & missing))
        rows.append(best)
        missing -= pairs(best)
    return rows


def allowed(row):
    whole = {"prior": None, "posterior": None, "objective": None} | row
    partly = {"posterior": "gumbel_softmax"} if row.get("prior") == "categorical" else {}
    whole |= {key: value for key, value in partly.items() if whole[key] is None}
    if whole["posterior"] is None:
        return whole["objective"] not in ("reconstruction", "vlb")
    return expected(whole) is None


FACTORS = {
    "model": MODELS,
    "encoder": options("encoder"),
    "decoder": options("decoder"),
    "prior": PRIORS,
    "posterior": POSTERIORS,
    "likelihood": LIKELIHOODS,
    "objective": OBJECTIVES,
}
ROWS = covering(FACTORS, allowed)


def test_the_rows_cover_every_pair_that_is_allowed():
    covered = {frozenset(pair) for row in ROWS for pair in combinations(row.items(), 2)}
    for (a, xs), (b, ys) in combinations(FACTORS.items(), 2):
        for x, y in product(xs, ys):
            assert ({(a, x), (b, y)} in covered) == allowed({a: x, b: y}), (a, x, b, y)
    assert all(expected(row) is None for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row.values()))
def test_a_covering_set_trains_every_parameter(row):
    config = configured(row)
    module = built(config)
    assert untrained(step(module, examples(instantiate(config.protocol)))) == []


def test_every_prior_posterior_and_objective_runs_or_is_refused():
    found = Counter()
    for prior, posterior, objective in product(PRIORS, POSTERIORS, OBJECTIVES):
        choices = {"model": "vae", "prior": prior, "posterior": posterior, "objective": objective}
        config, words = assembled(**choices), expected(choices)
        said = refusal(config)
        assert (said is None) == (words is None), (choices, said)
        found[words] += 1
        if words is None:
            assert untrained(step(built(config), examples(instantiate(config.protocol)))) == [], choices
        else:
            # The reason, and a way out that names an option.
            assert words in said and re.search(r"choose .*\w+=\w+", said), said
    print(dict(found))
    assert sum(found.values()) == len(PRIORS) * len(POSTERIORS) * len(OBJECTIVES)
    assert found[None] > sum(found.values()) / 3


def test_every_likelihood_scores_its_own_protocols_and_refuses_the_others(caplog):
    levels = {
        "threshold": 2,
        "dynamic": 2,
        "static": 2,
        "continuous": None,
        "dequantised": None,
        "discrete": 256,
    }
    scored = {"bernoulli": 2, "discretised_logistic": 256}
    for likelihood, protocol in product(LIKELIHOODS, options("protocol")):
        said = refusal(assembled(model="vae", likelihood=likelihood, protocol=protocol))
        if levels[protocol] == scored.get(likelihood):
            assert said is None
        else:
            assert "scores pixels of" in said and "protocol=" in said
    assert "has no bits per dimension" in caplog.text


@pytest.mark.parametrize(
    "group", ["encoder", "decoder", "optimizer", "scheduler", "prior", "likelihood", "objective"]
)
def test_every_option_composes_as_on_the_command_line_and_trains_a_step(group):
    for option in options(group):
        extra = {
            "categorical": ["posterior=gumbel_softmax"],
            "reconstruction": ["model=autoencoder"],
            "vlb": ["model=vdm"],
        }.get(option, [])
        data = f"data={'binarised' if option not in LIKELIHOODS or option == 'bernoulli' else 'continuous'}_digits"
        protocol = ["protocol=discrete"] if option == "discretised_logistic" else []
        config = smaller(composed(f"{group}={option}", data, *protocol, *extra))
        module = built(config)
        assert never_trained(module, examples(instantiate(config.protocol))) == []


@pytest.mark.parametrize("model", [name for name in options("model") if name not in CLASSICAL])
def test_every_model_composes_trains_a_step_and_is_scored(model):
    data = "continuous" if model == "linear_vae" else "binarised"
    config = smaller(composed(f"model={model}", f"data={data}_digits"))
    module = built(config)
    module.check(instantiate(config.data))
    batch = examples(instantiate(config.protocol))
    assert never_trained(module, batch) == []
    terms = module.model.terms(module.model.observe(batch), samples=2)
    assert all(term.shape == (6,) for term in terms.values())
    assert config.names.model == model


@pytest.mark.parametrize(
    "group", ["data", "trainer", "callbacks", "logger", "module", "step_size", "debug", "posterior"]
)
def test_every_option_of_the_other_groups_composes_and_names_classes_that_take_its_arguments(group):
    for option in options(group):
        extra = ["data.source.path=x.csv"] if option == "earthquakes_csv" else []
        owner = {"earthquakes": ["model=cavi_earthquakes"]}.get(option, [])
        composed(f"{group}={option}", *extra, *owner)


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_composes_and_says_what_to_look_at(experiment):
    config = composed(f"experiment={experiment}")
    assert config.trainer.max_epochs != 0
    lines = (parts_path() / f"{experiment}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_" and lines[1].startswith("# ")


def parts_path():
    from parts import CONF

    return CONF / "experiment"


EXPERIMENTS = [
    name for name in options("experiment") if composed(f"experiment={name}").names.model not in CLASSICAL
]  # fmt: skip


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_of_a_deep_model_trains_a_step_on_digits(experiment):
    first = (parts_path() / f"{experiment}.yaml").read_text().splitlines()[1]
    assert first.startswith(("# Look at ", "# Compare "))
    grey = composed(f"experiment={experiment}").names.data == "continuous_mnist"
    config = smaller(
        composed(f"experiment={experiment}", f"data={'continuous' if grey else 'binarised'}_digits")
    )
    assert never_trained(built(config), examples(instantiate(config.protocol))) == []


@pytest.mark.parametrize(
    "alias, group, option",
    [
        ("mog_vae", "prior", "standard_normal"),
        ("vamp_vae", "prior", "mog"),
        ("stl_vae", "objective", "elbo"),
        ("cnn_vae", "encoder", "mlp"),
        ("linear_vae", "likelihood", "gaussian_fixed"),
        ("conditional_vae", "prior", "mog"),
    ],
)
def test_an_explicit_choice_wins_over_an_alias(alias, group, option):
    chosen = composed(f"model={alias}", f"{group}={option}")
    assert chosen.names.model == alias
    assert chosen[group] == composed(f"{group}={option}")[group]
    assert OmegaConf.select(chosen, f"module.model.{group}", default=chosen[group]) == chosen[group]
    assert composed(f"model={alias}")[group] != chosen[group] or alias == "conditional_vae"
