"""Checks the annotations of the functions of airjax at run time."""

from pathlib import Path

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintException
from jaxtyping import install_import_hook

AIRJAX = Path(__file__).resolve().parents[2] / "airjax"
MANY_CALLS = "airjax.image.codec.entropy"  # a check takes longer than the coder does for a symbol
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
    """Checks all modules of airjax that are imported from now on, but one."""
    files = [path for path in sorted(AIRJAX.rglob("*")) if path.suffix == ".py" and path.name != "__init__.py"]
    modules = [".".join(path.relative_to(AIRJAX.parent).with_suffix("").parts) for path in files]
    modules.remove(MANY_CALLS)
    install_import_hook(modules, f"{__name__}.check")
