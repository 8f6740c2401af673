"""The threads of a process: the user's settings come first, then the cores that it may use and the work of a step."""

import os

import pytest
import torch
from torch import nn

from latentlab.processes import machine, threads

UNSET = dict.fromkeys((*threads.SPINS, *threads.NUMBERS, threads.SHARE, threads.POLICY))


@pytest.fixture
def environment(monkeypatch):
    """Return a function that sets some variables and no other of those that matter."""

    def set_to(**variables: str) -> None:
        for name in UNSET:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_to


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, threads.SPINS),
        ({"GOMP_SPINCOUNT": "7"}, {**threads.SPINS, "GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "active"}, {}),
    ],
)
def test_threads_sleep_soon_unless_the_user_chose(environment, given, expected):
    environment(**given)
    threads.limit_spinning()
    assert {name: os.environ[name] for name in threads.SPINS if name in os.environ} == expected


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "350000 100000\n"}, 3),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu.cfs_quota_us": "200000\n", "cpu.cfs_period_us": "100000\n"}, 2),
    ],
)
def test_a_quota_limits_the_cores(tmp_path, monkeypatch, files, cores):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(threads, "cores", lambda: 8)
    monkeypatch.setattr(threads, "cgroups", lambda controller: [tmp_path, tmp_path / "missing"])
    assert threads.usable_cores() == cores


@pytest.mark.parametrize(
    ("given", "work", "processes", "expected"),
    [
        ({}, None, 1, 4),
        ({}, threads.WORK // 9, 1, 1),
        ({}, 2 * threads.WORK, 1, 2),
        ({}, 999 * threads.WORK, 1, 4),
        ({}, 999 * threads.WORK, 2, 3),  # of six cores
        ({"OMP_NUM_THREADS": "4"}, 1, 1, 4),
        ({"OMP_NUM_THREADS": "4", threads.SHARE: "4"}, 1, 1, 1),
        ({"OMP_NUM_THREADS": "4", threads.SHARE: "2"}, 1, 1, 4),  # a job that sets another number
    ],
)
def test_threads_are_as_many_as_the_work_occupies(environment, monkeypatch, given, work, processes, expected):
    environment(**given)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(threads, "usable_cores", lambda: 6)
    assert threads.choose(work, processes) == expected


@pytest.mark.parametrize(
    ("given", "sharing", "expected"),
    [
        ({}, 1, {}),
        ({}, 2, {"OMP_NUM_THREADS": "3", threads.SHARE: "3"}),
        ({}, 7, {"OMP_NUM_THREADS": "1", threads.SHARE: "1"}),
        ({"MKL_NUM_THREADS": "4"}, 2, {}),
    ],
)
def test_jobs_share_the_usable_cores(environment, monkeypatch, given, sharing, expected):
    environment(**given)
    monkeypatch.setattr(threads, "usable_cores", lambda: 6)
    assert threads.share(sharing) == expected


def test_the_multiply_adds_of_a_network() -> None:
    linear, conv = nn.Linear(5, 3, bias=False), nn.Conv2d(2, 4, 3, bias=False)
    assert threads.multiply_adds(linear.parameters(), 7, pixels=784) == 7 * 15
    assert threads.multiply_adds(conv.parameters(), 7, pixels=784) == 7 * 2 * 4 * 9 * 49


def test_the_folders_of_a_cgroup_of_the_first_version_may_hold_two_controllers(tmp_path, monkeypatch):
    listed = tmp_path / "cgroup"
    listed.write_text("5:cpu,cpuacct:/job\n4:memory:/job\n0::/user\n")
    monkeypatch.setattr(machine, "Path", lambda path: listed)
    found = [str(folder) for folder in machine.cgroups("cpu")[:2]]
    assert found == ["/sys/fs/cgroup/cpu,cpuacct/job", "/sys/fs/cgroup/user"]
