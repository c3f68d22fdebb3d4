"""Run folders as `train.loop` leaves them, made without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_run(
    folder: Path,
    *,
    seed: int = 0,
    name: str = "toy",
    loop: dict[str, Any] | None = None,
    log: list[dict[str, Any]] | None = None,
    finished: bool = True,
    panel: tuple[int, int] | None = None,
    **config: Any,
) -> Path:
    """One folder; `log` defaults to 5 lines up to the last step, `panel` is the (h, w) of a picture."""
    loop = {"kind": "LoopConfig", "num_steps": 50, "seed": seed, "log_every": 10, "max_seconds": None, **(loop or {})}
    data = {"kind": "DataConfig", "folders": ["a/photos"], "seed": 100 + seed, **config.pop("data", {})}
    settings = {
        "seed": seed,
        "loop": loop,
        "config": {"kind": "ToyExperiment", "name": name, **config, "loop": loop, "data": data},
        "versions": {"python": "3.12.1", "jax": "0.10.0"},
        "devices": ["cpu:cpu"],
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(settings))
    if log is None:
        steps = np.linspace(0, loop["num_steps"], 6)[1:].astype(int).tolist()
        log = [{"step": k, "elapsed": 2.0 * k, "loss": 1 / k, "psnr": 20 + 0.1 * k + seed} for k in steps]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    if finished:
        (folder / "weights.safetensors").write_bytes(b"weights")
    if panel is not None:
        (folder / "panels").mkdir()
        pixels = np.random.default_rng(seed).integers(0, 256, (*panel, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "panels" / f"step_{loop['num_steps']:08d}.png")
    return folder
