"""airjax: pixels to Gaussians in one feed-forward pass; pure functions render, refine, store and train them.

An image:

    model = airjax.load()
    image = airjax.read_image("photo.jpg")                   # (h, w, 3) floats in [0, 1]
    encoded = model.encode(image, refine_steps=100)          # refine_steps: slower and better
    airjax.write_image("twice.png", encoded.render(scale=2))
    airjax.save("photo.air", model.compress(image, quality=45))
    encoded = airjax.open("photo.air")

A scene:

    scene = airjax.reconstruct("folder/of/posed/photographs")
    airjax.save("scene.ply", scene.gaussians)

The names, in five groups:

  Containers
    Gaussians2D, Gaussians3D   a set in a fixed number of slots, some of them active
    Camera                     one pinhole camera, or a stack of them
    Encoded                    the Gaussians of an image as a .air file holds them
    AirjaxError                what a user can cause: a bad file, an impossible value
  Images
    load, Model                a trained predictor: Model.encode, Model.compress
    read_image, write_image    photographs and pixels
    open, save                 .air and .ply files by their suffix
  Scenes
    load_scene                 a trained predictor of 3D Gaussians from posed views
    reconstruct                a folder of photographs to 3D Gaussians
  Rendering and metrics
    render                     2D Gaussians to an image, at any scale
    render_view                3D Gaussians as a camera sees them
    capacity_of                what `render` needs to know inside jit, grad and vmap
    psnr, ssim, ms_ssim        of an image and its reconstruction
  Refinement and meta-gradients
    Task, run                  what is refined, and the one loop around it
    refine                     the scan inside: gradient steps, traceable and differentiable
    outer_gradient             the gradient of a loss after refinement, by an estimator
    estimator, register        an estimator by name; a new one of your own

They are imported when they are first used, so that the command line can answer `--help` without JAX.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airjax.errors import AirjaxError as AirjaxError
    from airjax.face import open as open
    from airjax.face import read_image as read_image
    from airjax.face import save as save
    from airjax.gaussians import Gaussians2D as Gaussians2D
    from airjax.gaussians import Gaussians3D as Gaussians3D
    from airjax.image.codec.air_file import Encoded as Encoded
    from airjax.image.model import Model as Model
    from airjax.image.model import load as load
    from airjax.inner.estimators import estimator as estimator
    from airjax.inner.estimators import outer_gradient as outer_gradient
    from airjax.inner.estimators import register as register
    from airjax.inner.refine import refine as refine
    from airjax.inner.task import Task as Task
    from airjax.inner.task import run as run
    from airjax.metrics import ms_ssim as ms_ssim
    from airjax.metrics import psnr as psnr
    from airjax.metrics import ssim as ssim
    from airjax.photographs import write_image as write_image
    from airjax.raster.draw import capacity_of as capacity_of
    from airjax.raster.draw import render as render
    from airjax.scene.cameras import Camera as Camera
    from airjax.scene.model import load as load_scene
    from airjax.scene.reconstruct import reconstruct as reconstruct
    from airjax.scene.render import render as render_view

__version__ = "0.1.0"

# Where each name lives: the module, and what the name is called there where that differs.
_HOMES = {
    "AirjaxError": "airjax.errors",
    "Camera": "airjax.scene.cameras",
    "Encoded": "airjax.image.codec.air_file",
    "Gaussians2D": "airjax.gaussians",
    "Gaussians3D": "airjax.gaussians",
    "Model": "airjax.image.model",
    "Task": "airjax.inner.task",
    "capacity_of": "airjax.raster.draw",
    "estimator": "airjax.inner.estimators",
    "load": "airjax.image.model",
    "load_scene": "airjax.scene.model:load",
    "ms_ssim": "airjax.metrics",
    "open": "airjax.face",
    "outer_gradient": "airjax.inner.estimators",
    "psnr": "airjax.metrics",
    "read_image": "airjax.face",
    "reconstruct": "airjax.scene.reconstruct",
    "refine": "airjax.inner.refine",
    "register": "airjax.inner.estimators",
    "render": "airjax.raster.draw",
    "render_view": "airjax.scene.render:render",
    "run": "airjax.inner.task",
    "save": "airjax.face",
    "ssim": "airjax.metrics",
    "write_image": "airjax.photographs",
}
# `open` is not among them: `from airjax import *` would hide the builtin.
__all__ = [
    "AirjaxError",
    "Camera",
    "Encoded",
    "Gaussians2D",
    "Gaussians3D",
    "Model",
    "Task",
    "capacity_of",
    "estimator",
    "load",
    "load_scene",
    "ms_ssim",
    "outer_gradient",
    "psnr",
    "read_image",
    "reconstruct",
    "refine",
    "register",
    "render",
    "render_view",
    "run",
    "save",
    "ssim",
    "write_image",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'airjax' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    globals()[name] = value = getattr(import_module(module), attribute or name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
