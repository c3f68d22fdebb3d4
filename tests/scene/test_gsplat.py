"""gsplat's own functions of torch as a second oracle; skipped where gsplat is not installed (it needs no GPU for this).

What of gsplat runs without CUDA: projection with its compensation, spherical harmonics, and their gradients.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scenes3d import SIZE, front_camera, random_set

from airjax.scene.project import project
from airjax.scene.quaternions import rotations

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    peer = pytest.importorskip("gsplat.cuda._torch_impl")

NAMES = ("means", "scales", "quats", "opacities", "harmonics")


def ours(fields, camera):
    """(n, 12): pixel 2, inverse covariance 3, opacity, depth, colour 3; by depth."""
    gaussians = random_set(0, len(fields["means"]), degree=3)
    gaussians = gaussians.__class__(**fields, active=gaussians.active)
    splats = project(gaussians, camera, image_size=SIZE, antialiased=True)
    a, b, c = splats.factors.T
    conics = jnp.stack([a * a, a * b, b * b + c * c], axis=1)
    return jnp.concatenate(
        [splats.means, conics, splats.opacities[:, None], splats.values[:, 3:], splats.values[:, :3]], axis=1
    )


def theirs(fields, camera):
    """The same from gsplat."""
    means, scales, quats, opacities, harmonics = (fields[name] for name in NAMES)
    view = torch.eye(4)
    view[:3, :3], view[:3, 3] = torch.tensor(np.array(camera.rotation)), torch.tensor(np.array(camera.translation))
    covariances, _ = peer._quat_scale_to_covar_preci(quats, scales, compute_preci=False)
    intrinsics = torch.tensor(np.array(camera.intrinsics))
    size = {"width": SIZE[1], "height": SIZE[0]}
    _, pixels, depths, conics, compensations = peer._fully_fused_projection(
        means, covariances, view[None], intrinsics[None], **size, calc_compensations=True
    )
    center = torch.tensor(np.array(camera.center))
    colors = torch.clamp(peer._spherical_harmonics(3, means - center, harmonics) + 0.5, min=0.0)
    parts = [
        pixels[0],
        conics[0],
        (opacities * compensations[0])[:, None],
        depths[0][:, None],
        colors,
    ]
    return torch.cat(parts, dim=1)[torch.argsort(depths[0])]


def test_projection_and_colours_and_their_gradients():
    """Gradients by a random direction of all twelve numbers; the camera sees every Gaussian."""
    gaussians, camera = random_set(0, 80, degree=3), front_camera()
    fields = {name: getattr(gaussians, name) for name in NAMES}
    found = ours(fields, camera)
    weights = np.random.default_rng(1).normal(size=found.shape).astype(np.float32)
    # Inverse variances of small Gaussians are large; every number counts about as much.
    weights /= np.abs(np.asarray(found)).mean(axis=0)
    gradient = jax.grad(lambda fields: jnp.sum(weights * ours(fields, camera)))(fields)

    tensors = {name: torch.tensor(np.array(value), requires_grad=True) for name, value in fields.items()}
    expected = theirs(tensors, camera)
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=2e-4, atol=2e-5)
    torch.sum(torch.tensor(weights) * expected).backward()
    for name, tensor in tensors.items():
        scale = float(tensor.grad.abs().max())
        np.testing.assert_allclose(gradient[name], tensor.grad.numpy(), atol=1e-4 * scale)


def test_rotations():
    quats = random_set(0, 20).quats
    found = rotations(quats)
    np.testing.assert_allclose(found, peer._quat_to_rotmat(torch.tensor(np.array(quats))).numpy(), atol=1e-6)
