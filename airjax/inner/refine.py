"""The one inner loop: optax steps on any pytree, with the states on the way that somebody asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


class Refined(NamedTuple):
    """What `refine` returns.

    Fields:
      final: the state after `num_steps` updates.
      kept: the states after keep[0], keep[1], ... updates, stacked on a new axis 0 of every leaf.
      losses: (num_steps,) the loss before each update; losses[0] is that of the start.
      inner_state: of the optimiser after the last update; given back to `refine`, it goes on as if never stopped.
    """

    final: Any
    kept: Any
    losses: Float[Array, " k"]
    inner_state: Any


def refine(
    loss_fn: Callable[..., Float[Array, ""]],
    start: Any,
    inner_tx: optax.GradientTransformation,
    *,
    num_steps: int,
    batches: Any = None,
    update_mask: Any = None,
    keep: tuple[int, ...] = (),
    inner_state: Any = None,
    checkpoint_every: int | None = None,
) -> Refined:
    """Gradient steps on `loss_fn` from `start`.

      state_0 = start
      state_k+1 = state_k + update_mask * update_k,   update_k = inner_tx(gradient of loss_fn at state_k)

    One `lax.scan`, so the program does not grow with `num_steps`, and only the states in `keep` are stored
    (unless the loop is differentiated). Gradients flow through every step, into `start` and into all that
    `loss_fn` closes over: stop them where they are not wanted. For a finite derivative of Adam's step where a
    second moment is 0 give it `eps_root` > 0 (`scaled_adam` has it).

    Args:
      loss_fn: state -> scalar; with `batches`, (state, batch) -> scalar.
      start: pytree of floating arrays.
      num_steps: number of updates, static, >= 0; 0 gives `start` and no losses.
      batches: pytree of arrays whose first axis is the step: what the loss of each step is about, the number of a
        view for instance. None for the same loss in every step.
      update_mask: where updates are applied: a pytree of bools or bool arrays that broadcast to the leaves, or a
        prefix of it. It acts on the updates and not on the gradients, so that what `inner_tx` does on its own, such as
        decoupled weight decay, moves nothing that is frozen. None for everything.
      keep: static, increasing step numbers in [0, num_steps]; 0 is the start.
      inner_state: of `inner_tx` to go on from (`Refined.inner_state`); None to start fresh.
      checkpoint_every: static, c >= 1: reverse mode over K steps stores K / c states and computes c steps again at a
        time, each step once more in all; memory is least for c = sqrt(K). None to store every step.

    Raises:
      ValueError: a number out of range, keep not increasing, batches of another length, or a mask that does not fit.
      TypeError: num_steps, keep or checkpoint_every are not Python integers; a mask is not boolean.
    """
    _check_steps(num_steps, keep, checkpoint_every)
    start = jax.tree.map(jnp.asarray, start)
    mask = None if update_mask is None else _full_mask(update_mask, start)

    def step(carry, part):
        (state, inner_state, kept), (slot, batch) = carry, part
        loss, grads = jax.value_and_grad(loss_fn)(state, *batch)
        with jax.numpy_dtype_promotion("standard"):  # optax raises Python floats to the power of an int32
            updates, inner_state = inner_tx.update(grads, inner_state, state)
        if mask is not None:
            updates = jax.tree.map(lambda m, update: jnp.where(m, update, 0), mask, updates)
        state = optax.apply_updates(state, updates)
        if keep:  # a step that nobody asked for has the slot len(keep), and is dropped
            kept = jax.tree.map(lambda stack, leaf: stack.at[slot].set(leaf, mode="drop"), kept, state)
        return (state, inner_state, kept), loss

    slots = [keep.index(k) if k in keep else len(keep) for k in range(1, num_steps + 1)]
    # Every slot begins as the start, which is all that step 0 needs.
    kept = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(keep), *leaf.shape)), start)
    carry = (start, inner_tx.init(start) if inner_state is None else inner_state, kept)
    parts = jnp.array(slots, jnp.int32), () if batches is None else (jax.tree.map(jnp.asarray, batches),)
    (final, inner_state, kept), losses = _scan(step, carry, parts, num_steps, checkpoint_every)
    return Refined(final, kept, losses, inner_state)


def _scan(step, carry, parts, length: int, every: int | None):
    """`lax.scan` that reverse mode computes again in blocks of `every` steps; what is left over is a shorter block."""
    if every is None or every >= length:
        return jax.lax.scan(step, carry, parts, length)
    block = jax.checkpoint(lambda carry, parts: jax.lax.scan(step, carry, parts), prevent_cse=False)
    whole = length // every * every
    blocks = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, every, *leaf.shape[1:]), parts)
    carry, losses = jax.lax.scan(block, carry, blocks)
    if whole == length:
        return carry, losses.ravel()
    carry, rest = block(carry, jax.tree.map(lambda leaf: leaf[whole:], parts))
    return carry, jnp.concatenate([losses.ravel(), rest])


def _full_mask(mask: Any, state: Any) -> Any:
    """One bool array per leaf of the state, in the shape of that leaf."""

    def full(part, leaf):
        part = jnp.asarray(part)
        if part.dtype != bool:
            raise TypeError(f"update_mask: expected bool, got {part.dtype}")
        try:
            return jnp.broadcast_to(part, leaf.shape)
        except ValueError as error:
            expected = f"a shape that broadcasts to {leaf.shape}"
            raise ValueError(f"update_mask: expected {expected}, got {part.shape}") from error

    try:
        parts = jax.tree.broadcast(mask, state)
    except ValueError as error:
        expected = jax.tree.structure(state)
        raise ValueError(f"update_mask: expected a prefix of {expected}, got {jax.tree.structure(mask)}") from error
    return jax.tree.map(full, parts, state)


def _check_steps(num_steps: int, keep: tuple[int, ...], checkpoint_every: int | None) -> None:
    every = () if checkpoint_every is None else (("checkpoint_every", checkpoint_every),)
    for name, value in (("num_steps", num_steps), *(("keep", k) for k in keep), *every):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}: expected an int, got {value!r}")
    if num_steps < 0:
        raise ValueError(f"num_steps: expected at least 0, got {num_steps}")
    if checkpoint_every is not None and checkpoint_every < 1:
        raise ValueError(f"checkpoint_every: expected at least 1, got {checkpoint_every}")
    if list(keep) != sorted(set(keep)) or any(not 0 <= k <= num_steps for k in keep):
        raise ValueError(f"keep: expected increasing steps from 0 to {num_steps}, got {keep}")
