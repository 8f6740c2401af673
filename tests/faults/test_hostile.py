"""Runs from an attacker execute nothing, and are refused with one line in little memory and time."""

import hostile
import hostile_configs
import pytest

# The warm interpreter alone has about 700 MB, and a good run is evaluated within 100 MB more.
MOST_MB = 1000
SHORT = (
    *("oc.create in data.seed", "os.system in module.model.prior", "functools.partial in module.objective"),
    *("a figure whose name is a path", "a latent of gigabytes", "billion laughs", "a list in itself"),
    *("os.system in a checkpoint", "a zip bomb", "a tensor larger than its numbers", "no global_step"),
    *("NaN as weights", "another version of Lightning", "module=None"),
)


@pytest.mark.parametrize("name", SHORT)
def test_a_hostile_run_is_refused(name):
    [attack] = hostile.tried("evaluate", [name]).values()
    assert attack.executed == [] and attack.ended.status == 1 and attack.explained, attack
    assert attack.ended.peak_mb < MOST_MB


def test_the_canary_sings(tmp_path):
    """A case that executes something is found out."""
    command = ("evaluate.py", "run={run}", "trust=tests.faults.singing")
    spoil = hostile_configs.config(data__protocol={"_target_": "tests.faults.singing.sing"})
    attack = hostile.attack(spoil, command, tmp_path)
    assert attack.executed != []


@pytest.mark.faults
@pytest.mark.parametrize("kind", hostile.COMMANDS)
def test_all_hostile_runs(kind):
    results = hostile.tried(kind, hostile.CASES)
    print(hostile.summary(results))
    assert [name for name, attack in results.items() if not attack.survived] == []
    assert max(attack.ended.peak_mb for attack in results.values()) < MOST_MB
