"""The configuration of a whole model, as text: what a weights file says about the network it belongs to."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from airjax.errors import AirjaxError
from airjax.image.codec.quantise import NUM_CODES
from airjax.image.patches import PatchMap
from airjax.image.stages import Release, StageConfig
from airjax.nn.air_stage import AIRNET, AirnetConfig, Network, PredictorConfig

# Six stages of 8 x 8 patches. A mean stays within 0.75 patches of its patch centre and a standard deviation below
# 0.525 patches, so that a Gaussian is drawn in 5 x 5 patches at most.
COMPACT = tuple(StageConfig(PatchMap(8, offset=0.75, min_scale=0.5, max_scale=4.2)) for _ in range(6))

# The same after a base of 16 x 16 patches, which sees the image at half its size; all of them with a quantiser. The
# base alone has to draw what is smooth: equal Gaussians on a grid of patches add up to a constant but for 0.2 % along
# each axis with a standard deviation of 0.6 patches, and 0.9 % with 0.525.
SCALABLE = (
    StageConfig(PatchMap(16, offset=0.5, min_scale=1.0, max_scale=9.6), PredictorConfig(reduction=2, votes=NUM_CODES)),
    *(StageConfig(stage.patch_map, PredictorConfig(votes=NUM_CODES)) for stage in COMPACT),
)


def air_stages(
    patch_size: int, network: AirnetConfig = AIRNET, *, stretched_grid: bool = False
) -> tuple[StageConfig, ...]:
    """The four stages of AIR; the paper's patch sizes are 5, 6, 7 and 14, and its own weights have a stretched grid."""
    return (StageConfig(PatchMap.air(patch_size, stretched_grid=stretched_grid), network),) * 4


def stages_to_text(stages: tuple[StageConfig, ...]) -> str:
    """JSON of a stage configuration."""
    return json.dumps([dataclasses.asdict(stage) for stage in stages])


def stages_from_text(text: str, *, source: str) -> tuple[StageConfig, ...]:
    """Inverse of `stages_to_text`; any other text is an AirjaxError that names the file `source`."""
    try:
        return tuple(_stage(**{"release": {}, **stage}) for stage in json.loads(text))
    except (ValueError, TypeError, KeyError) as error:
        raise AirjaxError(f"{source}: expected a stage configuration in JSON, got {text[:80]!r}") from error


def _stage(patch_map: dict, network: dict, release: dict, least: float = 0.0) -> StageConfig:
    """A stage of a file; stages with another `least` are never in one."""
    return StageConfig(PatchMap(**patch_map), _network(network), release=Release(**release))


def _network(fields: dict[str, Any]) -> Network:
    if "widths" not in fields:
        return PredictorConfig(**fields)
    return AirnetConfig(**fields | {name: tuple(fields[name]) for name in ("blocks", "widths")})
