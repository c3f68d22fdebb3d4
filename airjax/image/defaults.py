"""Defaults and choices of the image wing, apart from the code that uses them so that `airjax --help` needs no JAX."""

# A compact file: `airjax.image.codec.compress`.
QUALITY, QUALITY_RANGE = 45.0, (0.0, 100.0)
EFFORT, EFFORT_RANGE = 3, (0, 9)

# A patch gets a Gaussian where its mean squared error, or 1 - its SSIM, is above these: 40 dB and 0.95.
# (AIR: 35 dB, where smooth areas show the patch grid.) A compact file takes what fits its quality instead.
MSE_THRESHOLD, SSIM_THRESHOLD = 1e-4, 0.05

SOLVE_STEPS = 5  # conjugate-gradient steps on the colors of a prediction
REFINE_STEPS = 0

# One image fitted from scratch: `airjax.image.fit`. The first of each tuple is the default.
FIT_GAUSSIANS = 10_000
FIT_STEPS = 2_000
FIT_SOLVE_STEPS = 10  # conjugate-gradient steps on the colors at the end
STARTS = ("content", "random")
FORMS = ("scale_rotation", "cholesky")
