"""The outer optimizer; oracle: Adam's first steps on a constant gradient are as long as the learning rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from train.optim import Optimizer


def lengths(tx, num_steps: int) -> list[float]:
    params = {"w": jnp.zeros(1)}
    state, found = tx.init(params), []
    for _ in range(num_steps):
        with jax.numpy_dtype_promotion("standard"):  # optax raises a Python float to the power of an int32
            updates, state = tx.update({"w": jnp.full(1, 0.5)}, state, params)
        found.append(-float(updates["w"][0]))
    return found


def test_every_extension_has_a_schedule_of_its_own():
    optimizer = Optimizer(learning_rate=1e-2, warmup=2)
    found = lengths(optimizer.make(30, 50, 60), 60)
    parts = [optax.warmup_cosine_decay_schedule(0.0, 1e-2, warmup, n) for warmup, n in ((2, 30), (2, 20), (1, 10))]
    expected = [float(part(i)) for part, n in zip(parts, (30, 20, 10), strict=True) for i in range(n)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(lengths(optimizer.make(30), 30), expected[:30], rtol=1e-4, atol=1e-9)
