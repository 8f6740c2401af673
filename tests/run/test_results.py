"""evaluation.json: the results of several evaluations of a run."""

import json
import os

import pytest

from latentlab.errors import UserError
from latentlab.run.files import sha256
from latentlab.run.results import read_evaluation, read_results, write_evaluation

BEST, LAST = "best.ckpt", "last.ckpt"


def settings(checkpoint=BEST, draws=100):
    return {"checkpoint": checkpoint, "samples": 1, "nll.samples": draws}


def test_results_with_other_settings_stay_in_the_file(tmp_path):
    path = tmp_path / "evaluation.json"
    path.write_text('{"test/nll": 1.0}')  # an older version named no settings
    written = [
        write_evaluation(path, {"test/nll": value}, chosen)
        for value, chosen in [
            (2.0, settings()),
            (3.0, settings(draws=0)),
            (4.0, settings()),
            (5.0, settings(LAST)),
        ]
    ]
    assert [len(each["earlier"]) for each in written] == [1, 2, 2, 3]
    found = json.loads(path.read_text())
    assert (found["test/nll"], found["settings"]) == (5.0, settings(LAST))
    assert [each["test/nll"] for each in found["earlier"]] == [4.0, 3.0, 1.0]
    assert read_evaluation(path, tmp_path / LAST)["test/nll"] == 5.0
    assert read_evaluation(path, tmp_path / BEST)["test/nll"] == 4.0
    assert read_evaluation(path, tmp_path / BEST)["settings"]["test/nll"] == settings()
    assert read_evaluation(tmp_path / "none.json", tmp_path / BEST) == {}


def test_results_that_were_not_asked_for_again_are_those_of_the_same_checkpoint(tmp_path):
    path = tmp_path / "evaluation.json"
    old, new = ({**settings(), "checkpoint_sha256": digest} for digest in ("old", "new"))
    write_evaluation(path, {"test/fid": 1.0, "test/kid": 1.0, "test/elbo": -1.0}, {**old, "fid.samples": 10})
    write_evaluation(path, {"test/fid": 2.0, "test/elbo": -1.0}, {**old, "fid.samples": 20})
    write_evaluation(path, {"test/elbo": -1.0, "data": "digits"}, old)
    found = read_evaluation(path, tmp_path / BEST)
    assert (found["test/fid"], found["test/kid"], found["data"]) == (2.0, 1.0, "digits")
    numbers = {name: own.get("fid.samples") for name, own in found["settings"].items() if "/" in name}
    assert numbers == {"test/fid": 20, "test/kid": 10, "test/elbo": None}
    write_evaluation(path, {"test/elbo": -0.5}, new)  # best.ckpt of a resumed training
    assert "test/fid" not in read_evaluation(path, tmp_path / BEST)


@pytest.mark.parametrize(
    ("digest", "age", "counts"),
    [("own", 9, True), ("other", -9, False), (None, -9, True), (None, 9, False)],
)
def test_results_of_other_weights_do_not_count(tmp_path, digest, age, counts):
    path, best = tmp_path / "evaluation.json", tmp_path / BEST
    best.write_bytes(b"weights")
    named = {} if digest is None else {"checkpoint_sha256": sha256(best) if digest == "own" else digest}
    write_evaluation(path, {"test/nll": 1.0}, {**settings(), **named})
    changed = path.stat().st_mtime + age  # seconds
    os.utime(best, (changed, changed))
    assert bool(read_evaluation(path, best)) is counts


def test_the_file_keeps_a_number_of_earlier_results(tmp_path):
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps({"test/nll": 1.0, "earlier": [{"test/nll": 2.0}] * 200}))
    assert len(write_evaluation(path, {"test/nll": 3.0}, settings())["earlier"]) == 100


def test_a_damaged_file_is_replaced_with_a_warning(tmp_path, caplog):
    path = tmp_path / "evaluation.json"
    path.write_text("{")
    written = write_evaluation(path, {"test/nll": 2.0}, settings())
    assert read_results(path) == written == {"test/nll": 2.0, "settings": settings()}
    assert str(path) in caplog.text


@pytest.mark.parametrize("earlier", [3, [3], [{"test/nll": "x"}]])
def test_damaged_earlier_results_are_refused(tmp_path, earlier):
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps({"test/nll": 1.0, "earlier": earlier}))
    with pytest.raises(UserError, match="is damaged"):
        read_evaluation(path, tmp_path / BEST)
