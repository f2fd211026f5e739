"""A hook of MkDocs: links that leave the docs become addresses in the repository."""

import posixpath
import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: object) -> str:
    """Return a page whose links out of the docs lead to the repository; a missing file fails."""
    root = Path(config["docs_dir"]).parent

    def whole(found: re.Match[str]) -> str:
        place = posixpath.normpath(f"docs/{posixpath.dirname(page.file.src_uri)}/{found[1]}")
        if place.startswith("docs/") and (root / place).is_file():
            return found[0]
        if not (root / place).exists():
            raise FileNotFoundError(f"{page.file.src_uri}: links to {place}, which is not there")
        return f"]({config['repo_url']}/blob/main/{place}{found[2] or ''})"

    return LINK.sub(whole, markdown)
