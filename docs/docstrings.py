"""Our docstrings as the site's API pages want them: `Fields:` is a list of attributes, an indented block is code."""

import re

import griffe

SECTION = re.compile(r"^\w+:\n(?= )")


class Docstrings(griffe.Extension):
    """Griffe calls `on_object` for everything that is documented."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring is not None:
            obj.docstring.value = for_the_site(obj.docstring.value)


def for_the_site(text: str) -> str:
    """A docstring with what Markdown would run together kept apart; `text` has no margin of its own."""
    blocks, in_section = [], False
    for block in text.split("\n\n"):
        in_section = bool(SECTION.match(block)) or (in_section and block.startswith(" "))
        if in_section:
            block = re.sub(r"^Fields:\n", "Attributes:\n", block)
        elif block.startswith("  "):  # a formula or a table
            block = "\n".join(f"    {line}" if line else line for line in block.split("\n"))
        blocks.append(block)
    return "\n\n".join(blocks)
