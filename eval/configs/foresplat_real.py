"""Refinement of real scenes that training has not seen: prediction and refinement against from scratch.

python -m eval.main --config eval/configs/foresplat_real.py
"""

import jax

from airjax.scene.task import RATES
from eval.curves import SCRATCH, Curves, Start
from eval.scene.subjects import RealScenes

SCENES = ("fern", "fox", "lego", "castle_p30", "fountain_p11", "entry_p10", "redkitchen")


def scratch(factor: int) -> Start:
    """Triangulated points with so many times the rates of 3DGS."""
    name = f"scratch, rates x {factor}" if factor > 1 else "scratch"
    return Start(name, (SCRATCH,), jax.tree.map(lambda rate: factor * rate, RATES))


def evaluation() -> Curves:
    """Every 8th view, or the test views, held out."""
    return Curves(
        name="foresplat_real",
        description="refinement of real scenes, 256 pixels",
        subjects=RealScenes(tuple(f"../shared/data/scenes/{name}" for name in SCENES)),
        starts=(Start("shipped", ("",)), *map(scratch, (1, 4, 8))),
        steps=(0, 10),
        seconds=(1, 2, 5, 10, 20, 60),
        compared=(0, 10),
    )
