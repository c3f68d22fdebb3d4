"""The checker behind `pytest --shapes`: every annotation of a function of airjax, at run time."""

import importlib
import inspect

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as it is for type checkers

# JAX rebuilds its containers by their constructors, around stacks and placeholders: these are not checked.
CONTAINERS = {"airjax.gaussians": ("Gaussians2D", "Gaussians3D"), "airjax.scene.cameras": ("Camera",)}


def install() -> None:
    """Checks all modules of airjax that are imported from now on."""
    install_import_hook("airjax", f"{__name__}.check")
    for module, names in CONTAINERS.items():
        for name in names:
            container = getattr(importlib.import_module(module), name)
            container.__init__ = inspect.unwrap(container.__init__)
