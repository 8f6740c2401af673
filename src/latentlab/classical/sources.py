"""Sources of observations: simulations with a known truth, and a CSV file."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from pydantic import NonNegativeFloat, NonNegativeInt

from latentlab.classical.base import Positive, Real, Size, Source, check_positive
from latentlab.classical.earthquakes import mixture_weights
from latentlab.errors import UserError

# The largest coordinate or strength in a file. Squares of them are exact enough in float64.
LARGEST = 1e9
MOST_COUNTS = 200_000_000  # of words in documents


class NoObservations(Source):
    """A single zero, for a model that needs no data."""

    name = "none"

    def __init__(self) -> None:
        super().__init__(torch.zeros(1, 1))


class NormalDraws(Source):
    """`size` draws of N(mean, 1 / precision).

    Args:
        size: the number of draws.
        mean: the mean mu.
        precision: the precision tau.
        seed: fixes the draws.

    Raises:
        UserError: for a size or a precision that is not positive.
    """

    def __init__(
        self,
        size: Size = 100,
        mean: Real = 2.0,
        precision: Positive = 0.5,
        seed: NonNegativeInt = 0,
    ) -> None:
        check_positive(size=size, precision=precision)
        draws = np.random.default_rng(seed).normal(mean, precision**-0.5, (size, 1))
        truth = {"mu": torch.tensor(mean), "tau": torch.tensor(precision)}
        super().__init__(torch.from_numpy(draws), truth=truth)


class GammaDraws(Source):
    """`size` draws of Gamma(shape, rate).

    Args:
        size: the number of draws.
        shape: the shape a.
        rate: the rate b, the inverse of the scale.
        seed: fixes the draws.

    Raises:
        UserError: for numbers that are not positive.
    """

    def __init__(
        self,
        size: Size = 1000,
        shape: Positive = 3.0,
        rate: Positive = 2.0,
        seed: NonNegativeInt = 0,
    ) -> None:
        check_positive(size=size, shape=shape, rate=rate)
        draws = np.random.default_rng(seed).gamma(shape, 1 / rate, (size, 1))
        super().__init__(torch.from_numpy(draws), truth={"a": torch.tensor(shape), "b": torch.tensor(rate)})


class EarthquakeCatalogue(Source):
    """A simulated catalogue of locations and strengths, (N, 3), from the model of `earthquakes`.

    Args:
        size: the number of earthquakes.
        num_components: the number K of clusters.
        tau: the precision of the locations around their centre.
        nu: the prior mean of the centres.
        rho: the prior precision of the centres.
        alpha: the prior shape of the rates.
        beta: the prior rate of the rates.
        weights: the K probabilities; None for equal ones.
        seed: fixes the draws.

    Raises:
        UserError: for parameters out of range.
    """

    def __init__(
        self,
        size: Size = 1000,
        num_components: Size = 4,
        tau: Positive = 1.0,
        nu: tuple[Real, Real] = (0.0, 0.0),
        rho: Positive = 0.01,
        alpha: Positive = 2.0,
        beta: Positive = 0.2,
        weights: Sequence[NonNegativeFloat] | None = None,
        seed: NonNegativeInt = 0,
    ) -> None:
        check_positive(size=size, num_components=num_components, tau=tau, rho=rho, alpha=alpha, beta=beta)
        random = np.random.default_rng(seed)
        mu = np.asarray(nu) + random.normal(0, rho**-0.5, (num_components, 2))
        rates = random.gamma(alpha, 1 / beta, num_components)
        z = random.choice(num_components, size, p=mixture_weights(weights, num_components).numpy())
        locations = mu[z] + random.normal(0, tau**-0.5, (size, 2))
        x = np.column_stack([locations, random.poisson(rates[z])])
        truth = {"mu": mu, "lambda": rates, "z": z}
        super().__init__(
            torch.from_numpy(x), torch.from_numpy(z), {name: torch.from_numpy(v) for name, v in truth.items()}
        )


class EarthquakeFile(Source):
    """A catalogue from a CSV file with the columns x, y and strength. Other columns are ignored.

    Args:
        path: the file.

    Raises:
        UserError: if the file is missing, empty, no text or lacks a column, or if a value is not a finite number or
            a strength is not a count.
    """

    name = "csv"
    columns = ("x", "y", "strength")

    def __init__(self, path: str) -> None:
        with _reading(path, "CSV"):
            rows = list(self._rows(path))
        if not rows:
            raise UserError(f"{path} holds no earthquakes")
        super().__init__(torch.tensor(rows, dtype=torch.float64))

    def _rows(self, path: str) -> Iterator[list[float]]:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            missing = [name for name in self.columns if name not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"{path}: no column {', '.join(missing)} (it needs {','.join(self.columns)})")
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                yield [_number(row[name], name, where) for name in self.columns[:2]] + [_strength(row, where)]


@contextmanager
def _reading(path: str, kind: str) -> Iterator[None]:
    """Refuse a file that is missing, or that the block finds to be no file of this kind."""
    if not Path(path).is_file():
        raise UserError(f"data.source.path={path}: no such file")
    try:
        yield
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a {kind} file in UTF-8: {error}") from error


def _number(text: str | None, name: str, where: str) -> float:
    try:
        value = float(text or "nan")
    except ValueError:
        value = float("nan")
    if not abs(value) <= LARGEST:  # NaN is not
        raise UserError(f"{where}: {name}={text} is not a finite number up to {LARGEST:g}")
    return value


def _strength(row: dict[str, str | None], where: str) -> float:
    value = _number(row["strength"], "strength", where)
    if value < 0 or value != int(value):
        raise UserError(
            f"{where}: strength={row['strength']} is not a count 0, 1, 2, ... (strengths are Poisson)"
        )
    return value


class Clusters(Source):
    """Draws of a mixture of normal distributions with known means, (N, C).

    Args:
        size: the number of points.
        num_components: the number of components, with equal weights.
        columns: the number C of columns.
        spread: the standard deviation of the means. The components have random covariances of about 1.
        seed: fixes the draws.
    """

    def __init__(
        self,
        size: Size = 600,
        num_components: Size = 3,
        columns: Size = 2,
        spread: Positive = 6.0,
        seed: NonNegativeInt = 0,
    ) -> None:
        random = np.random.default_rng(seed)
        mu = random.normal(0, spread, (num_components, columns))
        scales = random.normal(0, 0.5, (num_components, columns, columns)) + 0.7 * np.eye(columns)
        z = random.integers(num_components, size=size)
        x = mu[z] + np.einsum("nij,nj->ni", scales[z], random.normal(size=(size, columns)))
        truth = {"mu": torch.from_numpy(mu), "z": torch.from_numpy(z)}
        super().__init__(torch.from_numpy(x), torch.from_numpy(z), truth)


class PointFile(Source):
    """Points from a CSV file of numbers, a point in each line. A first line of names is left out.

    Args:
        path: the file.

    Raises:
        UserError: if the file is missing or no CSV file, or for a value that is not a finite number, with its line.
    """

    name = "csv"

    def __init__(self, path: str) -> None:
        with _reading(path, "CSV"), Path(path).open(newline="", encoding="utf-8-sig") as file:
            lines = [(number, row) for number, row in enumerate(csv.reader(file), 1) if row]
        if lines and not any(cell.strip()[-1:].isdigit() for cell in lines[0][1]):
            del lines[0]
        rows = [[_number(cell, "value", f"{path}, line {number}") for cell in row] for number, row in lines]
        if not rows:
            raise UserError(f"{path} holds no points")
        if len({len(row) for row in rows}) > 1:
            raise UserError(f"{path}: its lines have different numbers of values")
        super().__init__(torch.tensor(rows, dtype=torch.float64))


class Corpus(Source):
    r"""Counts of words of simulated documents, (D, V), from the model of `lda`.

    Args:
        documents: the number D of documents.
        words: the number of tokens in each.
        num_topics: the number of topics.
        vocabulary: the number V of words.
        alpha: the concentration of the topics of a document.
        eta: the concentration of the words of a topic.
        seed: fixes the draws.
    """

    kind = "words"

    def __init__(
        self,
        documents: Size = 1000,
        words: Size = 50,
        num_topics: Size = 3,
        vocabulary: Size = 10,
        alpha: Positive = 0.5,
        eta: Positive = 0.5,
        seed: NonNegativeInt = 0,
    ) -> None:
        random = np.random.default_rng(seed)
        topics = random.dirichlet(np.full(vocabulary, eta), num_topics)
        shares = random.dirichlet(np.full(num_topics, alpha), documents)
        # The topics of the tokens are summed out: each token is a draw of the document's mixture.
        counts = random.multinomial(words, shares @ topics)
        super().__init__(torch.from_numpy(counts), truth={"topics": torch.from_numpy(topics)})


class WordCounts(Source):
    """Counts of words from a text file, (D, V).

    A line is a document: `M word:count word:count ...` with M pairs, where a word is its index from 0 (LDA-C), or the
    counts of all words with commas between them.

    Args:
        path: the file.

    Raises:
        UserError: if the file is missing or no text, or for a count that is negative or not whole, an index beyond the
            others, or an empty document, with its line.
    """

    name = "word_counts"
    kind = "words"

    def __init__(self, path: str) -> None:
        with _reading(path, "text"):
            lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
        rows = [
            _counted(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()
        ]
        if not rows:
            raise UserError(f"{path} holds no documents")
        size = max(max(row) for row in rows) + 1
        if len(rows) * size > MOST_COUNTS:
            raise UserError(
                f"{path}: {len(rows):,} documents of {size:,} words do not fit into memory: leave out rare words"
            )
        counts = torch.zeros(len(rows), size, dtype=torch.float64)
        for index, row in enumerate(rows):
            counts[index, list(row)] = torch.tensor(list(row.values()), dtype=torch.float64)
        super().__init__(counts)


def _counted(line: str, where: str) -> dict[int, float]:
    pairs = _sparse(line, where) if ":" in line else list(enumerate(line.split(",")))
    found = {_whole(word, "word", where): float(_whole(count, "count", where)) for word, count in pairs}
    if len(found) < len(pairs):
        raise UserError(f"{where}: a word occurs twice")
    if not any(found.values()):
        raise UserError(f"{where}: an empty document has no topics: leave it out")
    return found


def _sparse(line: str, where: str) -> list[tuple[str, str]]:
    number, *pairs = line.split()
    if _whole(number, "number of words", where) != len(pairs):
        raise UserError(f"{where}: it starts with {number} and has {len(pairs)} pairs word:count")
    return [(word, count) for word, _, count in (pair.partition(":") for pair in pairs)]


def _whole(text: str | int, name: str, where: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= LARGEST or value != int(value):
        raise UserError(f"{where}: {name} {text} is not a whole number from 0 to {LARGEST:g}")
    return int(value)
