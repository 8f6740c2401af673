"""Latent Dirichlet allocation: its bound by enumeration, both ascents against each other, files of counts."""

from itertools import product

import pytest
import torch
from commands import call, refusal
from runs import summary
from torch.distributions import Dirichlet

from latentlab.classical.base import converge
from latentlab.classical.lda import CAVILDA, SVILDA
from latentlab.classical.sources import Corpus, WordCounts
from latentlab.errors import UserError

SIZES = [(50, 50, 2, 5), (1000, 50, 3, 10), (2000, 500, 5, 10)]


def fitted(kind=CAVILDA, documents=40, words=20, topics=2, vocabulary=4, iterations=30, **options):
    torch.manual_seed(0)
    x = Corpus(documents, words, topics, vocabulary, seed=1).x
    return converge(kind(topics, tolerance=0, **options), x, iterations)


def test_the_bound_is_that_of_every_token_with_its_own_q():
    # E_q[log p(theta, phi, z, w) - log q] with q(z) summed over all assignments of one short document.
    model = fitted(documents=1, words=3, vocabulary=3, iterations=3)
    tokens = [w for w, n in enumerate(model.counts[0].long().tolist()) for _ in range(n)]
    theta, phi = Dirichlet(model.gamma[0]), Dirichlet(model.lam)
    log_theta = model.gamma[0].digamma() - model.gamma[0].sum().digamma()
    log_phi = model.lam.digamma() - model.lam.sum(1, keepdim=True).digamma()
    r = torch.stack([(log_theta + log_phi[:, w]).softmax(0) for w in tokens])  # (3, K)
    expected = torch.zeros(())
    for z in product(range(2), repeat=3):
        q = torch.stack([r[i, k] for i, k in enumerate(z)]).prod()
        joint = sum(log_theta[k] + log_phi[k, w] for k, w in zip(z, tokens, strict=True))
        expected = expected + q * (joint - q.log())
    priors = [(theta, model.alpha), (phi, model.eta)]
    for posterior, prior in priors:
        flat = Dirichlet(torch.full_like(posterior.concentration, prior))
        expected = expected - torch.distributions.kl_divergence(posterior, flat).sum()
    assert model.elbo().item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_coordinate_ascent_is_monotone_and_finds_the_topics(size):
    documents, words, topics, vocabulary = size
    torch.manual_seed(0)
    source = Corpus(*size, seed=1)
    model = converge(CAVILDA(topics, tolerance=0), source.x, 60)
    bounds = torch.tensor(model.history.values["elbo"], dtype=torch.float64)
    assert (bounds.diff() >= -1e-9 * bounds[-1].abs()).all()
    assert model.lam.sum().item() == pytest.approx(topics * vocabulary * 0.5 + documents * words)
    assert model.errors(source.truth)["error/topic"] < 0.2


def test_a_full_batch_with_step_one_is_coordinate_ascent():
    ascent = fitted(iterations=5)
    stochastic = fitted(SVILDA, iterations=5, batch_size=40, delay=0, forgetting=1.0, local_steps=1)
    stochastic.count.zero_()
    stochastic.lam.copy_(ascent.lam)
    stochastic.gamma.copy_(ascent.gamma)
    ascent.iterate()
    stochastic.iterate()  # (1 + 0)^-1 = 1
    assert torch.allclose(ascent.gamma, stochastic.gamma)
    assert torch.allclose(ascent.lam, stochastic.lam)


def test_stochastic_steps_reach_the_bound_of_coordinate_ascent():
    ascent = fitted(documents=300, words=50, topics=3, vocabulary=8, iterations=100)
    stochastic = fitted(SVILDA, documents=300, words=50, topics=3, vocabulary=8, iterations=30, batch_size=50)
    assert stochastic.elbo() > 1.002 * ascent.elbo()  # negative


def test_a_step_from_a_batch_is_unbiased():
    model = fitted(SVILDA, documents=12, iterations=2, batch_size=4)
    whole = model.words_of(model.counts, model.gamma)
    parts = [3 * model.words_of(model.counts[rows], model.gamma[rows]) for rows in torch.arange(12).split(4)]
    assert torch.allclose(torch.stack(parts).mean(0), whole)


@pytest.mark.parametrize("model", ["cavi_lda", "svi_lda"])
def test_a_run_is_trained_and_evaluated_by_the_command_line(model, tmp_path):
    (tmp_path / "counts.txt").write_text("2 0:3 2:1\n1 1:4\n3 0:1 1:1 3:2\n")
    words = [
        "data=word_counts",
        f"data.source.path={tmp_path}/counts.txt",
        "model.num_topics=2",
        "logger=none",
    ]
    run = tmp_path / "run"
    done = call("train.py", f"model={model}", *words, "trainer.max_epochs=1", f"hydra.run.dir={run}")
    assert done.status == 0, done.err
    assert summary(run)["train/elbo"] < 0 and "error/topic" not in summary(run)
    assert (run / "figures" / "topics.png").is_file()
    done = call("evaluate.py", f"run={run}")
    assert done.status == 0, done.err


def test_files_of_counts(tmp_path):
    path = tmp_path / "counts"
    path.write_text("2 0:3 2:1\n\n1 1:4\n")
    assert WordCounts(str(path)).x.tolist() == [[3, 0, 1], [0, 4, 0]]
    path.write_text("3,0,1\n0,4,0\n")
    assert WordCounts(str(path)).x.tolist() == [[3, 0, 1], [0, 4, 0]]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("1 0:-3", "line 1.*-3"),
        ("1 0:1.5", "line 1.*1.5"),
        ("1 0:1\n1 x:1", "line 2.*x"),
        ("1 0:1\n1 0:0", "line 2.*empty"),
        ("2 0:1", "line 1.*1 pairs"),
        ("2 0:1 0:2", "line 1.*twice"),
        ("1,2\n1,-2", "line 2.*-2"),
        ("1 999999999:1", "memory"),
        ("", "no documents"),
    ],
)
def test_wrong_counts_are_one_line(tmp_path, text, named):
    (tmp_path / "counts").write_text(text)
    with pytest.raises(UserError, match=named):
        WordCounts(str(tmp_path / "counts"))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["data=word_counts", "data.source.path=missing"], "missing"),
        (["model.num_topics=0"], "num_topics"),
        (["data=normal_draws"], "word_counts"),
    ],
)
def test_what_lda_cannot_read_is_one_line(tmp_path, words, named):
    assert named in refusal(
        call("train.py", "model=cavi_lda", *words, "logger=none", f"hydra.run.dir={tmp_path}/run")
    )


def test_counts_of_words_are_refused_by_other_models(tmp_path):
    (tmp_path / "counts").write_text("3\n4\n")
    words = ["model=gamma_mle", "data=word_counts", f"data.source.path={tmp_path}/counts", "logger=none"]
    assert "GammaMLE" in refusal(call("train.py", *words, f"hydra.run.dir={tmp_path}/run"))
