"""Linear probes: multinomial logistic regression on the vectors of a layer, or on a learned mix of all layers.

    vectors (L, N, D) → standardized by the train split → C of a grid, chosen on dev → weights, predictions and NLL of dev

The objective is that of scikit-learn's LogisticRegression, C·Σ NLL + ½‖W‖² with a free intercept, where W of two classes is one vector,
the difference of theirs. A layer is read in chunks and never copied in fp32 as a whole: vectors may be a file mapped into memory. Alain &
Bengio 2017, "Understanding intermediate layers using linear classifier probes"; for the mix, Peters et al. 2018, "Deep contextualized
word representations".
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import log, log1p, prod

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

from bert.errors import InputError

Vectors = NDArray[np.floating]
Labels = NDArray[np.integer]

GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
COARSE, FINE = 3e-4, 3e-5  # nats per unit that an iteration must gain: while C is chosen, and with the chosen one
SAMPLE = 8_192  # units whose covariance and probabilities approximate the curvature
SAMPLE_OF_MIX = (
    16_384  # units that the shares of the layers are trained on: a pass over all layers of all units is slow
)
SAMPLE_OF_C = 32_768  # units that C is chosen on
CHUNK, CHUNK_ON_GPU = 2**18, 2**26  # numbers at once: on a CPU, 1 MB of fp32 stays in the cache
READY = 2**27  # numbers of a layer, 512 MB, that are standardized once, and not in each pass


@dataclass(frozen=True)
class Predictions:
    """Predictions for M units beside their labels."""

    labels: Labels
    """(M,): the most probable label"""
    nll: NDArray[np.float64]
    """(M,): the negative log-likelihood of the label of each unit, in nats"""
    correct: NDArray[np.bool_]
    """(M,)"""

    @classmethod
    def of(cls, log_probabilities: Vectors, labels: Labels) -> "Predictions":
        """From (M, K) log-probabilities and (M,) labels."""
        best = log_probabilities.argmax(axis=1)
        nll = -log_probabilities[np.arange(len(labels)), labels].astype(np.float64)
        return cls(best, nll, best == labels)

    @property
    def accuracy(self) -> float:
        """The share of correct predictions."""
        return float(self.correct.mean())

    @property
    def mean_nll(self) -> float:
        """The mean negative log-likelihood of a label, in nats."""
        return float(self.nll.mean())


@dataclass(frozen=True)
class LinearProbe:
    """A trained probe of K classes on L layers of D dimensions; L is 1 unless it is a mix."""

    c: float
    """inverse strength of the L2 penalty"""
    weights: Tensor
    """(K, D), of standardized vectors; zeros for a class without train units"""
    bias: Tensor
    """(K,); -inf for a class without train units"""
    mean: Tensor
    """(L, D), of the train units"""
    scale: Tensor
    """(L, D): 1 / standard deviation of the train units; 0 for a constant dimension"""
    mix: Tensor
    """(L,): the share of each layer"""
    units: int
    """number N of train units"""

    def log_probabilities(self, vectors: Vectors) -> NDArray[np.float32]:
        """(M, K) log-probabilities of the classes for M units, (M, D) or (L, M, D).

        A class without train units has probability 1 / (N + K), as by Laplace's rule; the others share the rest. Raises InputError for
        vectors that are not finite.
        """
        layers = _tensor(vectors).view(len(self.mean), -1, self.mean.shape[1])
        parts = []
        for _, z in _standardized(layers, self.mean, self.scale):
            x = torch.tensordot(self.mix, z, dims=1)
            parts.append(F.linear(x, self.weights, self.bias).log_softmax(dim=1).cpu())
        found = torch.cat(parts)
        unseen = self.bias.isinf().cpu()
        if found.isnan().any():
            raise InputError("vectors are not finite; compute them again in fp32")
        rare, rest = -log(self.units + len(unseen)), log1p(-int(unseen.sum()) / (self.units + len(unseen)))
        return torch.where(unseen, rare, found + rest).numpy()


@dataclass(frozen=True)
class Fit:
    """A probe and its predictions for the dev units."""

    probe: LinearProbe
    dev: Predictions


def fit_layers(
    train: Vectors,
    labels: Labels,
    dev: Vectors,
    dev_labels: Labels,
    classes: int,
    grid: Sequence[float] = GRID,
    device: str | torch.device = "cpu",
) -> list[Fit]:
    """One probe for each layer, with the C of `grid` that has the lowest mean NLL on dev.

    `train` (L, N, D) and `dev` (L, M, D) are vectors, `labels` (N,) and `dev_labels` (M,) numbers of `classes` classes. C grows until the
    NLL of dev does: values after that are not tried. Of more than 32,768 units C is chosen on a sample of so many: it is the variance of
    a prior, which is the same for any number of units. A dev label without train units counts as wrong, with the NLL that
    `LinearProbe.log_probabilities` gives it.

    Raises InputError for fewer than two classes, for no units, for labels of another length, and for vectors that are not finite.
    """
    check_units(labels, classes)
    for name, given, vectors in ("labels", labels, train), ("dev_labels", dev_labels, dev):
        if vectors.ndim != 3 or vectors.shape[1] != len(given) or not len(given):
            what = f"{name} has {len(given)} labels and the vectors the shape {vectors.shape}"
            raise InputError(f"{what}; must be one of each unit, (L, N, D)")
    chosen = []
    for known, asked in zip(train, dev, strict=True):
        units = _prepare(known[None], labels, classes, device)
        sample = _ready(_every(units, SAMPLE_OF_C))
        best, lowest = (min(grid), _initial(sample)), np.inf
        for start, one in _path(sample, grid, classes, asked, dev_labels):
            if one.dev.mean_nll >= lowest:
                break
            best, lowest = (one.probe.c, start), one.dev.mean_nll
        c, start = best
        chosen.append(_evaluated(units, c, _fit(units, c, start), classes, asked, dev_labels))
    return chosen


def fit(
    train: Vectors,
    labels: Labels,
    dev: Vectors,
    dev_labels: Labels,
    classes: int,
    c: float,
    device: str | torch.device = "cpu",
) -> Fit:
    """The probe with one C on one layer, `train` (N, D) and `dev` (M, D). Otherwise as `fit_layers`."""
    units = _prepare(train[None], labels, classes, device)
    return _evaluated(units, c, _fit(units, c, _initial(units)), classes, dev, dev_labels)


def path(
    train: Vectors,
    labels: Labels,
    dev: Vectors,
    dev_labels: Labels,
    classes: int,
    grid: Sequence[float] = GRID,
    device: str | torch.device = "cpu",
) -> Iterator[Fit]:
    """The probe for each C of `grid` on one layer, from the smallest C to the largest. Otherwise as `fit`.

    Each begins with the weights of the one before.
    """
    units = _prepare(train[None], labels, classes, device)
    return (one for _, one in _path(units, grid, classes, dev, dev_labels))


def fit_mix(
    train: Vectors,
    labels: Labels,
    dev: Vectors,
    dev_labels: Labels,
    classes: int,
    c: float,
    device: str | torch.device = "cpu",
) -> Fit:
    """A probe on the weighted mean of all layers, standardized one by one; `probe.mix` (L,) has the weights.

    The weights, a softmax, and the probe are trained together; of more than 16,384 units on a sample of so many, after which the probe
    is trained on all. `c` is usually that of the best layer. Otherwise as `fit_layers`.
    """
    units = _prepare(train, labels, classes, device)
    sample = _ready(_every(units, SAMPLE_OF_MIX))
    start = _fit(sample, c, _initial(units), COARSE)
    start = _fit(_turned(sample, start[2]), c, start, COARSE)  # the correlations of the layers in use
    mixed = torch.cat([torch.tensordot(start[2].softmax(dim=0), z, dims=1).half() for _, z in _chunks(units)])
    zeros = torch.zeros_like(units.mean[:1])
    one = _ready(replace(units, vectors=mixed[None], mean=zeros, scale=zeros + 1))
    weights, bias, _ = _fit(_turned(one, zeros[:, 0]), c, (*start[:2], zeros[:, 0]))
    return _evaluated(units, c, (weights, bias, start[2]), classes, dev, dev_labels)


def check_units(labels: Labels, classes: int) -> None:
    """Raises InputError for fewer than two classes and for no units."""
    if classes < 2:
        raise InputError("the labels have one class; a probe needs two or more")
    if len(labels) == 0:
        raise InputError("there are no units to train on; give a larger train split")


# ── training ──


@dataclass(frozen=True)
class _Units:
    """Train units, how they are standardized, and the eigenvectors (D, D) and eigenvalues (D,) of their correlations."""

    vectors: Tensor  # (L, N, D)
    labels: Tensor  # (N,): numbers of `seen`
    seen: Tensor  # classes with train units
    mean: Tensor  # (L, D)
    scale: Tensor  # (L, D)
    basis: Tensor
    spectrum: Tensor
    ready: Tensor | None = None  # (L, N, D): the vectors, standardized, in fp32


Parameters = tuple[Tensor, Tensor, Tensor]
"""weights (K, D), bias (K,), logits of the mix (L,)"""


def _prepare(train: Vectors, labels: Labels, classes: int, device: str | torch.device) -> _Units:
    check_units(labels, classes)
    vectors = _tensor(train)
    vectors = vectors.to(device) if len(vectors) == 1 else vectors  # all layers may be too large for the device
    mean, scale = _moments(vectors, torch.device(device))
    seen, numbers = np.unique(labels, return_inverse=True)
    target = torch.from_numpy(numbers).to(device)
    identity = torch.eye(vectors.shape[2], device=device)
    units = _Units(vectors, target, torch.from_numpy(seen), mean, scale, identity, identity[0])
    return _turned(_ready(units), torch.zeros(len(train), device=device))


def _ready(units: _Units) -> _Units:
    """The units, standardized once for all passes unless they are too many."""
    units = replace(units, ready=None)
    if units.vectors.numel() > READY:
        return units
    return replace(units, ready=torch.cat([z for _, z in _chunks(units)], dim=1))


def _turned(units: _Units, mix: Tensor) -> _Units:
    """The units with the basis of a mix of layers, estimated on a sample."""
    covariance = torch.zeros_like(units.basis)
    sample = _every(units, SAMPLE)
    for _, z in _chunks(sample):
        x = torch.tensordot(mix.softmax(dim=0), z, dims=1)
        covariance.addmm_(x.T, x)
    # In fp64: with constant dimensions fp32 may not converge.
    spectrum, basis = torch.linalg.eigh((covariance / len(sample.labels)).cpu().double())
    return replace(units, basis=basis.to(units.basis), spectrum=spectrum.clamp(min=0).to(units.basis))


def _moments(vectors: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Means and 1 / standard deviations, (L, D). Differences from the first unit make a constant dimension exactly 0."""
    first = vectors[:, 0].to(device).float()
    sums = torch.zeros(2, *first.shape, dtype=torch.float64)
    for _, difference in _standardized(vectors, first, torch.ones_like(first)):
        sums += torch.stack((difference.sum(dim=1), difference.square().sum(dim=1))).cpu()
    if not sums.isfinite().all():
        raise InputError("vectors are not finite; compute them again in fp32")
    mean, square = sums / vectors.shape[1]
    sd = (square - mean.square()).clamp(min=0).sqrt()
    return (first + mean.float().to(device)), torch.where(sd > 0, 1 / sd, 0).float().to(device)


def _initial(units: _Units) -> Parameters:
    """Zeros, and the bias of the shares of the classes, half a unit added to each, since a sample may lack some."""
    shares = torch.bincount(units.labels, minlength=len(units.seen)) + 0.5
    shares /= shares.sum()
    layers, width = units.mean.shape
    return shares.new_zeros(len(shares), width), shares.log(), shares.new_zeros(layers)


def _fit(units: _Units, c: float, start: Parameters, tolerance: float = FINE) -> Parameters:
    """Minimize NLL per unit + ½‖W‖² / (C·N) by L-BFGS, in coordinates in which the curvature at `start` is about 1.

    That of the weights of class k is about E[p_k (1 - p_k)] times the correlations of the dimensions, plus the penalty; compare Böhning
    1992, who bounds it by ½. It takes a third of the passes that the weights themselves take.
    """
    penalty = (2 if len(units.seen) == 2 else 1) / (c * len(units.labels))  # two classes: that of their difference
    curvature = _curvature(_every(units, SAMPLE), start)  # (K,)
    scales = (
        (curvature[:, None] * units.spectrum + penalty).rsqrt(),
        curvature.rsqrt(),
        torch.ones_like(start[2]),
    )
    sizes = [part.numel() for part in start]

    def parameters(flat: NDArray[np.float64]) -> Parameters:
        parts = torch.from_numpy(flat).float().to(units.basis.device).split(sizes)
        weights, bias, mix = (part.view_as(scale) * scale for part, scale in zip(parts, scales))
        return weights @ units.basis.T, bias, mix

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        now = parameters(flat)
        nll, gradients = _nll(units, now)
        of_weights, *others = (gradient / len(units.labels) for gradient in gradients)
        turned = ((of_weights + penalty * now[0]) @ units.basis, *others)
        value = nll / len(units.labels) + penalty / 2 * float(now[0].square().sum())
        return value, _flat([part * scale for part, scale in zip(turned, scales)])

    begin = (start[0] @ units.basis, *start[1:])
    flat = _flat([part / scale for part, scale in zip(begin, scales)])
    options = {"ftol": tolerance, "gtol": 0, "maxiter": 500}
    return parameters(minimize(objective, flat, jac=True, method="L-BFGS-B", options=options).x)


def _path(
    units: _Units, grid: Sequence[float], classes: int, dev: Vectors, dev_labels: Labels
) -> Iterator[tuple[Parameters, Fit]]:
    """The parameters and the probe for each C, from the smallest to the largest; each begins with those of the one before."""
    start = _initial(units)
    for c in sorted(grid):
        start = _fit(units, c, start, COARSE)
        yield start, _evaluated(units, c, start, classes, dev, dev_labels)


def _flat(parts: Sequence[Tensor]) -> NDArray[np.float64]:
    return torch.cat([part.flatten() for part in parts]).cpu().double().numpy()


def _nll(units: _Units, parameters: Parameters) -> tuple[float, Parameters]:
    """The summed NLL of the train units, and its gradients. They are written out: autograd takes a third longer."""
    weights, bias, logits = parameters
    mix = logits.softmax(dim=0)
    of_weights, of_bias, of_mix = (torch.zeros_like(part) for part in parameters)
    total = 0.0
    for part, z in _chunks(units):
        x = torch.tensordot(mix, z, dims=1) if len(z) > 1 else z[0]  # (n, D)
        labels = units.labels[None, part]  # (1, n)
        residuals = torch.addmm(bias[:, None], weights, x.T).log_softmax(dim=0)  # (K, n)
        total -= residuals.gather(0, labels).sum().item()
        residuals.exp_().scatter_add_(0, labels, -torch.ones_like(residuals[:1]))
        of_weights.addmm_(residuals, x)
        of_bias += residuals.sum(dim=1)
        if len(z) > 1:
            of_mix += torch.tensordot(z, residuals.T @ weights, dims=2)
    return total, (of_weights, of_bias, mix * (of_mix - mix @ of_mix))


def _curvature(units: _Units, parameters: Parameters) -> Tensor:
    """(K,): the mean of p (1 - p) over the units, p the probability of a class."""
    weights, bias, mix = parameters
    total = torch.zeros_like(bias)
    for _, z in _chunks(units):
        p = F.linear(torch.tensordot(mix.softmax(dim=0), z, dims=1), weights, bias).softmax(dim=1)
        total += (p * (1 - p)).sum(dim=0)
    return (total / len(units.labels)).clamp(min=1e-6)


def _evaluated(units: _Units, c: float, parameters: Parameters, classes: int, dev: Vectors, dev_labels: Labels) -> Fit:
    """The probe with all classes, and its predictions for dev."""
    device = units.mean.device
    weights = torch.zeros(classes, units.mean.shape[1], device=device)
    bias = torch.full((classes,), -torch.inf, device=device)
    weights[units.seen], bias[units.seen] = parameters[0], parameters[1]
    mix = parameters[2].softmax(dim=0)
    probe = LinearProbe(c, weights, bias, units.mean, units.scale, mix, len(units.labels))
    return Fit(probe, Predictions.of(probe.log_probabilities(dev), dev_labels))


def _every(units: _Units, most: int) -> _Units:
    """At most `most` of the units, at equal distances."""
    step = -(-len(units.labels) // most)
    ready = None if units.ready is None else units.ready[:, ::step]
    return replace(units, vectors=units.vectors[:, ::step], labels=units.labels[::step], ready=ready)


def _chunks(units: _Units) -> Iterator[tuple[slice, Tensor]]:
    """`_standardized` units; not again those that are ready."""
    if units.ready is None:
        return _standardized(units.vectors, units.mean, units.scale)
    return ((part, units.ready[:, part]) for part in _parts(units.ready, units.mean))


def _standardized(vectors: Tensor, mean: Tensor, scale: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Consecutive units of (L, N, D) vectors, standardized: their slice, and (L, n, D) fp32 on the device of `mean`."""
    for part in _parts(vectors, mean):
        chunk = vectors[:, part].to(mean.device).float()
        yield part, (chunk - mean[:, None]).mul_(scale[:, None])


def _parts(vectors: Tensor, mean: Tensor) -> Iterator[slice]:
    """Consecutive units of (L, N, D) vectors that are computed at once on the device of `mean`."""
    size = max(1, (CHUNK if mean.device.type == "cpu" else CHUNK_ON_GPU) // prod(mean.shape))
    return (slice(first, first + size) for first in range(0, vectors.shape[1], size))


def _tensor(vectors: Vectors) -> Tensor:
    """The same memory as a tensor, which is only read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of an array that is not writable
        return torch.from_numpy(vectors)
