"""Documents that pages point at: what tasks have written about nights and models, and this release's docs."""

from __future__ import annotations

import mimetypes
import os
from base64 import b64encode
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from nightshift.page import document as whole
from nightshift.settings import settings
from nightshift.usecase import UseCase

if TYPE_CHECKING:
    from markdown_it.token import Token

_SHOWN = {".html", ".svg", ".png"}
_PICTURES = {".svg", ".png"}


def report(uc: UseCase, name: str) -> Path | None:
    """Return the file of a report of a use case; None when there is none, or it would lie anywhere else."""
    return _inside(_reports(uc), name, _SHOWN)


def served(uc: UseCase, file: Path) -> str:
    """Return a report in HTML whose links to the docs lead to where these are served."""
    text = file.read_text(encoding="utf-8")
    written = Path(os.path.relpath(_docs(), file.resolve().parent)).as_posix()
    up = "../" * (len(file.resolve().relative_to(_reports(uc)).parts) + 1)
    return text.replace(f'href="{written}/', f'href="{up}docs/')


def document(name: str) -> str | Path | None:
    """Return a page of ``docs/`` (``runbooks/drift.md``) as HTML, or the file of a picture."""
    picture = _inside(_docs(), name, _PICTURES)
    page = _inside(_docs(), name, {".md"})
    if picture is not None or page is None:
        return picture
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(page.read_text(encoding="utf-8"))
    for token in tokens:
        _unlink(token, PurePosixPath(name))
        _inline(token, PurePosixPath(name))
    title = next((token.content for token in tokens if token.type == "inline"), name)
    return whole(title, [parser.renderer.render(tokens, parser.options, {})])


def _inline(token: Token, page: PurePosixPath) -> None:
    """Put pictures into the page: without an origin of its own, it may ask for nothing."""
    for child in token.children or ():
        if child.type == "image":
            file = _inside(_docs(), os.path.normpath(page.parent / str(child.attrs["src"])), _PICTURES)
            if file is not None:
                kind, content = mimetypes.types_map[file.suffix], b64encode(file.read_bytes()).decode()
                child.attrs["src"] = f"data:{kind};base64,{content}"


def _reports(uc: UseCase) -> Path:
    return (settings().home / "reports" / uc.name).resolve()


def _docs() -> Path:
    return (settings().project / "docs").resolve()


def _inside(folder: Path, name: str, kinds: set[str]) -> Path | None:
    file = (folder / name).resolve()
    # By one name alone: who may read it is told from the folder that the name begins with.
    inside = file.is_relative_to(folder) and f"{file.relative_to(folder)}" == name and file.suffix in kinds
    return file if inside and file.is_file() else None


def _unlink(token: Token, page: PurePosixPath) -> None:
    """Take the address from links to what is not served: files of the repository outside of its docs."""
    for child in token.children or ():
        address = str(child.attrs.get("href", ""))
        path = address.partition("#")[0]
        if child.type != "link_open" or not path or "://" in address:
            continue
        if _inside(_docs(), os.path.normpath(page.parent / path), _PICTURES | {".md"}) is None:
            del child.attrs["href"]
