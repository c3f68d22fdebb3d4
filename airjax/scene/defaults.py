"""Defaults of `airjax.scene.reconstruct`, apart from it so that `airjax --help` needs no JAX."""

VIEWS = 8  # photographs that are turned into Gaussians
PREDICT_SIZE = 128  # pixels; longest side of the photographs as the network sees them
REFINE_STEPS = 0
STARTS = "prediction", "points"  # where a refinement begins
PER_PIXEL_OF_SIDE = 64  # Gaussians for each pixel of the longest side of the photographs that are refined towards
MAX_SIZE = 256  # pixels; longest side of the photographs that are refined towards and measured with
HOLD_OUT = 8  # every 8th view is held out where the pose file marks no test views, as for LLFF scenes

# Of `airjax.scene.poses` and `airjax.scene.video`
POSE_CAMERAS = ("size", "single", "folder", "image")  # which photographs share a camera; default first
POSE_SIZE = 1600  # pixels; longest side of the photographs as features are looked for in them
VIDEO_FRAMES = 80  # that are taken of a video
VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mts", ".mpg", ".3gp")
