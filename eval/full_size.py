"""A network of a paper at full size with random weights: seconds and memory on this machine, which may be busy.

python -m eval.full_size anysplat --views 2 --size 224
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from airjax.scene import anysplat
from eval.timing import peak_memory

_BLOCK = 2**20 + 7  # numbers that are drawn; larger arrays repeat them


def random_weights(init: Callable[[jax.Array], Any]) -> Any:
    """Weights of the shapes that `init` makes, one array at a time: scales of 1, small kernels, biases near 0."""
    noise = np.random.default_rng(0).standard_normal(_BLOCK).astype(np.float32)

    def draw(path, leaf):
        last = jax.tree_util.keystr(path[-1:], simple=True)
        size = int(np.prod(leaf.shape))
        fan_in = size // leaf.shape[-1] if last == "kernel" else 1
        array = np.resize(noise, size).reshape(leaf.shape)
        array *= 0.02 if last != "kernel" else min(0.02, fan_in**-0.5)
        array += last in ("scale", "ls1", "ls2")
        return jnp.asarray(array)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(lambda: init(jax.random.key(0))))


def _anysplat(views: int, size: int) -> tuple[Any, Callable[[Any], Any]]:
    config = anysplat.AnySplatConfig()
    images = np.random.default_rng(1).random((views, size, size, 3), np.float32)
    params = random_weights(partial(anysplat.init_params, config=config))
    return params, lambda params: anysplat.predict(params, images, config=config)


SYSTEMS = {"anysplat": _anysplat}  # (views, size) -> weights, and what is done with them


def clocks() -> tuple[float, float]:
    """Seconds that have passed, and those of all cores that this process took."""
    return time.perf_counter(), time.process_time()


def main(arguments: list[str] | None = None) -> None:
    """Prints one line for each step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--size", type=int, default=224, help="side of the images, pixels")
    parser.add_argument("--repeat", type=int, default=2, help="how often it is run; the first time compiles")
    args = parser.parse_args(arguments)

    def say(what: str, start: tuple[float, float]) -> None:
        seconds, cpu = (now - then for now, then in zip(clocks(), start, strict=True))
        print(f"{what}: {seconds:.1f} s, {cpu:.1f} CPU s, peak {peak_memory() / 1e9:.2f} GB", flush=True)

    start = clocks()
    params, run = SYSTEMS[args.system](args.views, args.size)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    say(f"{count:,} random weights", start)
    for i in range(args.repeat):
        start = clocks()
        finite = all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(jax.block_until_ready(run(params))))
        say(f"run {i + 1}, {'finite' if finite else 'NOT FINITE'}", start)


if __name__ == "__main__":
    main(sys.argv[1:])
