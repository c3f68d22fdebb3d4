"""`FreeTask`: the refinement of an image's Gaussians that may go anywhere, bound to no patch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import optax

from airjax.arrays import size_of
from airjax.image.relocate import relocate
from airjax.image.task import ImageTask
from airjax.inner.optimizers import scaled_adam
from airjax.inner.task import SEGMENT, State
from airjax.raster.draw import render

ROUNDS = 10  # that a refinement is divided into, each of a segment of steps or more; Gaussians move after each
RELOCATED_UNTIL = 0.6  # share of a refinement; until 0.8 gave the same on crops
_FASTER = 2.0  # at first, than a refinement that may stop anywhere
_LAST = 0.05  # of the first rate, at the end


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class FreeTask(ImageTask):
    """Refinement towards the image alone in a number of steps that is known, or a time.

    The rates start high and fall with the share of it that is done, and Gaussians of little use move to where more is
    missing (`airjax.image.relocate`). Adam forgets squared gradients within 20 steps: the moments of a row that moved
    start at 0 while the count is that of all, and its steps are still no longer than 1.2 times the rate (with the usual
    1,000 steps, 6.6 times).
    """

    def make_tx(self, rates) -> optax.GradientTransformation:
        return scaled_adam(rates, warmup=10, b2=0.95)

    def at(self, step: int, share: float) -> FreeTask:
        """Rates that fall along half a cosine."""
        factor = jnp.float32(_FASTER * (_LAST + (1 - _LAST) * 0.5 * (1 + math.cos(math.pi * share))))
        return replace(self, rates=jax.tree.map(lambda rate: factor * rate, self.rates))

    def rearrange(self, state: State, share: float, *, most: int) -> State:
        """Relocation at the end of a round; slots that are not in use stay so."""
        before = share * (1 - SEGMENT / max(state.step, SEGMENT))
        if int(ROUNDS * share) == int(ROUNDS * before) or share > RELOCATED_UNTIL:
            return state
        gaussians = self.gaussians(state.coordinates, state.active)
        residual = self.image - render(gaussians, image_size=size_of(self.image)).image
        relocated, is_new = relocate(gaussians, residual)

        def put(leaf, value):
            rows = is_new.reshape(-1, *(1,) * (jnp.ndim(leaf) - 1))
            return jnp.where(rows, value, leaf)

        def forget(leaf):
            return put(leaf, 0) if jnp.ndim(leaf) and len(leaf) == len(is_new) else leaf

        coordinates = jax.tree.map(put, state.coordinates, self.coordinates(relocated))
        return state._replace(coordinates=coordinates, inner_state=jax.tree.map(forget, state.inner_state))
