"""Is it right, and is it fast, on the GPU or TPU at hand?

python -m eval.main accelerator      (some minutes; needs nothing but the repository; leave the machine alone)

It prints, as Markdown, and writes to runs/eval/accelerator/accelerator.md and .json:

1. the device: its kind, number and memory, the version of its plugin, of JAX and jaxlib;
2. what the machine can do: exponentials and products of matrices (float32 at JAX's "highest" and default precision,
   bfloat16) a second, bytes copied a second, the time of a call that does nothing;
3. a row for every function that matters: both renderers forward and with their gradients, networks, encode and decode,
   color solve, refinement, training steps. Each has the median, the least and the middle half (interquartile range) of
   its warm runs, the seconds that it took to compile, its memory, its share of what the machine can do, and the largest
   difference from the values that this machine's CPU computes in float32 in the same process, gradients too: the output
   that is furthest off, and by what share of its largest value;
4. a line for whatever is not as it should be: JAX on a CPU although a plugin for another device is installed, a
   difference above the tolerance of its row, products in TF32 or bfloat16, renderer's lists that overflowed, a row that
   failed (the exit status is then 2).

Products of float32 matrices are rounded on GPUs and TPUs unless JAX is told otherwise: expect the rows of networks to
differ by default, and to agree with --precision highest. --parts names some of the rows alone.
"""

from eval.accelerator import Accelerator


def evaluation() -> Accelerator:
    """A 768 x 512 photograph with 28,000 Gaussians, a scene of 32,768 in two views, and both predictors."""
    return Accelerator(name="accelerator", description="against the values of this machine's CPU")
