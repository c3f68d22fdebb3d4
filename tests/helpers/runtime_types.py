"""Checks every annotation of a function of airjax at run time."""

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintException
from jaxtyping import install_import_hook

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as it is for type checkers


def check(function):
    """Checks all but constructors: JAX rebuilds its containers by them, around stacks and placeholders."""
    if function.__qualname__.endswith("__init__"):
        return function
    try:
        return _beartype(function)
    except BeartypeDecorHintException:  # typing.Self outside of a class, a generic NamedTuple: unknown to beartype
        return function


def install() -> None:
    """Checks all modules of airjax that are imported from now on."""
    install_import_hook("airjax", f"{__name__}.check")
