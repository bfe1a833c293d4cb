"""Contrastive pre-training: two views of a scan are alike, and so are scans of people alike (y-aware InfoNCE).

Source: Dufumier et al. 2021, and the code published with it, whose weights are divided another way than in the paper.
With a width of 0, or no label, it is SimCLR's loss (Chen et al. 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxneuro.errors import InputError
from jaxneuro.objectives.base import Batch, Objective

FORMS = ("published", "formula")
#: Labels whose difference is a distance. All others are names in code, at distance 0 or 1.
NUMERIC = ("age",)
#: Stands for the cosine of minus infinity: over any temperature its exponential is 0, and 0 times it is 0.
_NEVER = -1e9


def build(
    *,
    temperature: float = 0.1,
    form: str = "published",
    proxies: Mapping[str, float] = MappingProxyType({"age": 5.0}),
) -> Objective:
    """Return y-aware contrastive learning; the network's outputs [b, k] are the embeddings.

    The views are two passes of the network, each with its own batch statistics and dropout; the running statistics of
    the first go into the second. Metrics: loss; baseline, the loss of an embedding that tells nothing; alignment, the
    mean cosine of two views of a scan; top1, the share of views whose nearest other view in the batch is of the same
    scan. `evaluate` gives loss, baseline and top1 of each scan [b, 3]; all depend on the scans that it is batched with.

    Args:
      temperature: divides cosines.
      form: "published" divides the weight of a pair by the sum of its column, as the published code does; "formula" by
        that of its row, as the paper has it.
      proxies: width of the kernel by label, in the label's unit (years for age); several multiply. 0 lets a scan match
        itself alone.

    Raises:
      InputError: a temperature, form or width that cannot be.
    """
    if form not in FORMS:
        raise InputError(f"objective.form: found {form!r}; expected one of {', '.join(FORMS)}")
    if not 0 < temperature < math.inf:
        raise InputError(f"objective.temperature: found {temperature!r}; expected a number above 0, such as 0.1")
    proxies = dict(proxies)
    for name, width in proxies.items():
        if not 0 <= width < math.inf:
            raise InputError(
                f"objective.proxies.{name}: found {width!r}; expected a width of 0 or more in the label's unit"
            )

    def losses(first: jax.Array, second: jax.Array, batch: Batch) -> jax.Array:
        labels = {name: batch[name] for name in proxies}
        return y_aware_loss(
            first,
            second,
            labels,
            temperature=temperature,
            proxies=proxies,
            form=form,
            valid=batch.get("valid"),
        )

    def loss(
        apply: Callable[..., Any], params: Any, batch_stats: Any, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
        embeddings = []
        for name, dropout in zip(("volume", "second"), jax.random.split(key), strict=True):
            variables = {"params": params, "batch_stats": batch_stats}
            (outputs, _), updated = apply(
                variables, batch[name], train=True, mutable=["batch_stats"], rngs={"dropout": dropout}
            )
            batch_stats = updated.get("batch_stats", {})
            embeddings.append(outputs)
        first, second = embeddings
        valid = batch.get("valid", jnp.ones(len(first), bool))
        value = _mean(losses(first, second, batch), valid)
        metrics = {
            "loss": value,
            "baseline": baseline(valid.sum()),
            "alignment": _mean(jnp.sum(_unit(first) * _unit(second), axis=1), valid),
            "top1": _mean(found(first, second, valid), valid),
        }
        return value, (metrics, batch_stats)

    def evaluate(apply: Callable[..., Any], variables: Any, batch: Batch, key: jax.Array) -> jax.Array:
        first, second = (apply(variables, batch[name], train=False)[0] for name in ("volume", "second"))
        valid = batch.get("valid", jnp.ones(len(first), bool))
        nothing = jnp.full(len(first), baseline(valid.sum()))
        values = [losses(first, second, batch), nothing, found(first, second, valid)]
        return jnp.stack(values, axis=1).astype(jnp.float32)

    def score(values: np.ndarray, labels: dict[str, np.ndarray]) -> dict[str, float]:
        means = values.mean(axis=0, dtype=np.float64) if len(values) else np.full(3, np.nan)
        return dict(zip(("loss", "baseline", "top1"), means.tolist(), strict=True))

    return Objective(loss, evaluate, score, metric="loss", mode="min", views=2, labels=tuple(proxies), whole_batch=True)


def y_aware_loss(
    z_i: jax.Array,
    z_j: jax.Array,
    labels: Mapping[str, jax.Array],
    *,
    temperature: float,
    proxies: Mapping[str, float],
    form: str,
    valid: jax.Array | None = None,
) -> jax.Array:
    """Return the loss of each scan [n]: the sum of the cross-entropies of its two views over all other views.

    Its mean over scans is the published scalar, which divides the sum over 2 n views by n.

    Args:
      z_i, z_j: embeddings [n, k] of the two views of each scan, of any length.
      labels: the labels [n] that `proxies` names. A scan with an unknown one (NaN) matches itself alone.
      temperature, proxies, form: as in `build`.
      valid: [n], False for a scan that is no part of the batch; its loss is 0.
    """
    scores = _cosines(z_i, z_j, valid) / temperature
    n = len(z_i)
    weights = jnp.tile(_alike(labels, proxies, n, valid, scores.dtype), (2, 2)) * (1 - jnp.eye(2 * n))
    # The weights are symmetric: what differs is whether the sum of a pair's row or of its column divides it.
    total = weights.sum(axis=1, keepdims=True)
    total = jnp.where(total > 0, total, 1)
    weights = jax.lax.stop_gradient(weights / (total.T if form == "published" else total))
    rows = -jnp.sum(weights * jax.nn.log_softmax(scores, axis=1), axis=1)
    return rows[:n] + rows[n:]


def baseline(scans: jax.Array) -> jax.Array:
    """Return the loss where all views of so many scans are equally similar: 2 log(2 scans - 1).

    The weights of all pairs sum to twice the scans in either form, whatever the labels.
    """
    return 2 * jnp.log(jnp.maximum(2 * scans - 1, 1).astype(jnp.float32))


def found(z_i: jax.Array, z_j: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """Return for each scan [n] how many of its two views have the other as their nearest, halved: 0, 0.5 or 1."""
    n = len(z_i)
    nearest = jnp.argmax(_cosines(z_i, z_j, valid), axis=1)
    hit = nearest == (jnp.arange(2 * n) + n) % (2 * n)
    return (hit[:n].astype(jnp.float32) + hit[n:]) / 2


def _cosines(z_i: jax.Array, z_j: jax.Array, valid: jax.Array | None) -> jax.Array:
    """Return cosines [2 n, 2 n] between all views, `_NEVER` with itself and with a scan that is not valid."""
    z = jnp.concatenate([_unit(z_i), _unit(z_j)])
    # At full precision: accelerators round the factors of a product to 8 or 11 bits, which a low temperature magnifies.
    cosines = jnp.matmul(z, z.T, precision=jax.lax.Precision.HIGHEST)
    never = jnp.eye(len(z), dtype=bool)
    if valid is not None:
        never |= ~jnp.tile(valid.astype(bool), 2)[None, :]
    return jnp.where(never, _NEVER, cosines)


def _unit(z: jax.Array) -> jax.Array:
    """Return embeddings [n, k] of length 1, in float32 or better; one of length 0 stays, and has no gradient."""
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    return z * jax.lax.rsqrt(jnp.maximum(jnp.sum(z**2, axis=1, keepdims=True), 1e-24))


def _alike(
    labels: Mapping[str, jax.Array], proxies: Mapping[str, float], n: int, valid: jax.Array | None, dtype: Any
) -> jax.Array:
    """Return how alike scans are by their labels [n, n], from 0 to 1: 1 with itself, 0 where a label is unknown."""
    itself = jnp.eye(n, dtype=dtype)
    if not proxies or not all(proxies.values()):
        alike = itself
    else:
        alike = jnp.ones((n, n), dtype)
        for name, width in proxies.items():
            known = jnp.isfinite(labels[name])
            y = jnp.where(known, labels[name], 0).astype(dtype)
            apart = y[:, None] - y[None, :]
            if name not in NUMERIC:
                apart = (apart != 0).astype(dtype)
            alike *= jnp.exp(-(apart**2) / (2 * width**2)) * known[:, None] * known[None, :]
        alike = jnp.maximum(alike, itself)
    if valid is not None:
        alike = alike * valid[:, None] * valid[None, :]
    return alike


def _mean(values: jax.Array, valid: jax.Array) -> jax.Array:
    return jnp.sum(values, where=valid) / jnp.maximum(valid.sum(), 1)
