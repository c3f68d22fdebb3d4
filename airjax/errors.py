"""The errors that a user can cause."""


class AirjaxError(ValueError):
    """Bad input from outside: the message names the file or value and what was expected, in one line."""


class FormatError(AirjaxError):
    """Bytes that are not a valid .air file (docs/format.md): damaged, cut short, too new, or made up."""
