"""Runs that are killed at a chosen place and resumed equal the uninterrupted run, bit for bit."""

import csv
import json
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import killing
import pytest
import torch
from forks import Ended, forked
from records import history, logged

FOLDERS = (Path(killing.__file__).parent, *map(Path, ()))
STATUS = {"SIGKILL": -9, "SIGTERM": 143, "SIGHUP": 129, "SIGINT": 130}

DIGITS = ("data=binarised_digits", "data.batch_size=64", "trainer.log_every_n_steps=7", "trainer.max_epochs=3")
OFTEN = "callbacks.last.every_minutes=1e-3"  # 60 ms
