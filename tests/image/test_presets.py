"""Configurations as text, and the sizes that the configured models promise."""

import jax
import pytest

from airjax.errors import AirjaxError
from airjax.image.patches import PatchMap
from airjax.image.presets import COMPACT, stages_from_text, stages_to_text
from airjax.image.stages import StageConfig, init_params
from airjax.nn.air_stage import PredictorConfig


@pytest.mark.parametrize(
    "stages",
    [COMPACT, (StageConfig(PatchMap.air(7)),) * 4, (), (StageConfig(PatchMap(5, 0.3), PredictorConfig(8, 1, 2)),)],
)
def test_round_trip(stages):
    assert stages_from_text(stages_to_text(stages), source="x") == stages


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "7",
        "null",
        '["stage"]',
        "[{}]",
        '[{"patch_map": {"patch_size": 8}}]',
        '[{"patch_map": {"patch_size": 0}, "network": {}}]',
        '[{"patch_map": {"patch_size": "8"}, "network": {}}]',
        '[{"patch_map": {"size": 8}, "network": {}}]',
        '[{"patch_map": {"patch_size": 8}, "network": {"depth": 3}}]',
    ],
)
def test_any_other_text_is_one_clear_error(text):
    with pytest.raises(AirjaxError, match=r"weights\.bin: expected a stage configuration in JSON, got"):
        stages_from_text(text, source="weights.bin")


def test_the_map_of_air():
    assert PatchMap.air(7) == PatchMap(7, 1.0, 0.5, 7.5)


def test_the_compact_model_is_as_small_as_promised():
    """About half a million multiply-adds per patch and stage, 2 to 4 million weights, a Gaussian in 5 x 5 patches."""
    shapes = jax.eval_shape(lambda key: init_params(key, COMPACT), jax.random.key(0))
    assert 2e6 < sum(x.size for x in jax.tree.leaves(shapes)) < 4e6
    for stage in COMPACT:
        assert 0.3e6 < stage.network.multiply_adds(stage.patch_map.patch_size) < 0.6e6
        assert stage.patch_map.rings == 2
