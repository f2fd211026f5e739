"""The sentences of a Markdown page, without code, tables, headings and addresses."""

import re
from collections.abc import Iterator

BLOCKS_OF_CODE = re.compile(r"^ *(```|~~~).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
PICTURE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
LINK = re.compile(r"\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])")
END = re.compile(r"(?<=[.!?])[\"')*_]*\s+(?=[A-Z`*\"'(\[])")
INSIDE = re.compile(r"`[^`]*`|\b(?:et al|e\.g|i\.e|vs|cf|Fig|Eq|No)\.")
"""Where a dot ends no sentence: code and short forms."""


def paragraphs(text: str) -> Iterator[str]:
    """Yield paragraphs and items of lists, each on one line; code in them stays in backticks."""
    text = COMMENT.sub("", BLOCKS_OF_CODE.sub("\n\n", text))
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    text = LINK.sub(r"\1", PICTURE.sub("", text))
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*+]|\d+\.)\s)|\n(?=[|#>])", text):
        line = " ".join(block.split())
        if line and not line.startswith(("|", "#", "???", "!!!", ":::", "<")):
            yield re.sub(r"^(?:[-*+>]|\d+\.)\s+", "", line)


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a page."""
    for paragraph in paragraphs(text):
        guarded = INSIDE.sub(lambda found: found[0].replace(".", "\0"), paragraph)
        yield from (each.replace("\0", ".") for each in END.split(guarded))


def words(sentence: str) -> list[str]:
    """Return a sentence's words; code in backticks counts as one."""
    return re.findall(r"[\w’']+(?:-[\w’']+)*", re.sub(r"`[^`]*`", " code ", sentence))
