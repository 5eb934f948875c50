"""Text from the bytes of a document: PDF, HTML, plain text and Markdown.

A document is read as a whole or not at all: what a parser would leave out because it is damaged, encrypted,
or in another encoding than was said, is an error. A parser is imported when a document needs it.
"""

from __future__ import annotations

import codecs
import io
import logging
import re
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier
    from selectolax.lexbor import LexborNode

MEDIA_TYPES = {
    ".pdf": "application/pdf",
    ".html": "text/html",
    ".htm": "text/html",
    ".xhtml": "text/html",
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
}
"""What documents there are, by how their names end (in lower case)."""

# A language is told if it is so likely, by the first so many characters.
_SURE = 0.5
_SAMPLE = 20_000

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Where an HTML document says its encoding, and what browsers take some of those for.
_CHARSET = re.compile(
    rb"""<meta\b[^>]*?\bcharset\s*=\s*["']?\s*([\w.:-]+)|<\?xml\b[^>]*?\bencoding\s*=\s*["']([\w.:-]+)""",
    re.IGNORECASE,
)
_CHARSET_WITHIN = 4096
_TAKEN_FOR = {"iso8859-1": "cp1252", "ascii": "cp1252", "utf-16": "utf-8", "utf-16-le": "utf-8"}

# What is not to be read, or is on every page of a site.
_LEFT_OUT = {"head", "iframe", "nav", "noembed", "noframes", "script", "style", "svg", "template"}
_PARAGRAPHS = {
    "address",
    "article",
    "aside",
    "blockquote",
    "body",
    "caption",
    "details",
    "dialog",
    "div",
    "dl",
}
_PARAGRAPHS |= {"fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6"}
_PARAGRAPHS |= {
    "header",
    "hgroup",
    "hr",
    "legend",
    "main",
    "ol",
    "p",
    "pre",
    "section",
    "summary",
    "table",
    "ul",
}
_LINES = {"dd", "dt", "li", "optgroup", "option", "tr"}
_CELLS = {"td", "th"}
_AS_WRITTEN = {"pre", "textarea"}
_SPACES = re.compile(r"[ \t\n\r\f]+")
_GAPS = ("", " ", "\t", "\n", "\n\n")
_NONE, _SPACE, _TAB, _LINE, _PARAGRAPH = range(5)


class UnreadableError(ValueError):
    """A document that cannot be read, or not as a whole; the message says why."""


@dataclass(frozen=True)
class Document:
    """What a document says.

    Attributes:
        text: All of it. Lines end in ``\\n``.
        media_type: One of ``MEDIA_TYPES``.
        title: As the document says it; None where it says none.
        pages: Where each page that has text begins, and its number, from 1 on; none where there are no pages.
        remarks: What the parser found odd, for people.
    """

    text: str
    media_type: str
    title: str | None = None
    pages: tuple[tuple[int, int], ...] = ()
    remarks: tuple[str, ...] = ()

    def page_at(self, place: int) -> int | None:
        """Return the number of the page that the character at ``place`` is on."""
        found = bisect_right(self.pages, place, key=lambda page: page[0])
        return self.pages[found - 1][1] if found else None


def is_document(name: str) -> bool:
    """Tell by its name whether a file is a document."""
    return _ending(name) in MEDIA_TYPES


def parse(name: str, content: bytes, *, encoding: str, most: float) -> Document:
    """Return what a document says.

    Args:
        name: Its name, whose ending says what it is.
        content: Its bytes.
        encoding: Of text, and of HTML that says none.
        most: How many characters it may have, against files that grow without end when unpacked.

    Raises:
        UnreadableError: It is damaged, encrypted, in another encoding, or beyond a limit.
    """
    kind = MEDIA_TYPES[_ending(name)]
    if kind == "application/pdf":
        return _pdf(content, kind, most)
    text, start = _decoded(content, _declared(content, encoding) if kind == "text/html" else encoding)
    if kind == "text/html":
        return _html(text, kind)
    if (zero := text.find("\0")) >= 0:
        raise UnreadableError(
            f"character {zero + start} is a zero: it is no text, or has another encoding than {encoding}"
        )
    return Document(text.replace("\r\n", "\n").replace("\r", "\n"), kind)


def language_of(text: str) -> str | None:
    """Return the language of a text by ISO 639-1; None if it is too short, or too mixed, to tell."""
    language, likely = _languages().classify(text[:_SAMPLE])
    return language if likely >= _SURE and len(language) == 2 else None


@cache
def parsers() -> str:
    """Return the names and versions of what reads documents."""
    return ", ".join(f"{name} {version(name)}" for name in ("pypdf", "selectolax", "py3langid"))


@cache
def _languages() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    found = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    # ISO 639-1 has two letters; zxx is what is no language.
    found.set_languages([label for label in found.labels if len(label) == 2 or label == "zxx"])
    return found


def _ending(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _pdf(content: bytes, kind: str, most: float) -> Document:
    from pypdf import PdfReader
    from pypdf.errors import FileNotDecryptedError

    texts: list[str] = []
    pages: list[tuple[int, int]] = []
    length = 0
    with _remarks("pypdf") as remarks:
        try:
            reader = PdfReader(io.BytesIO(content))
            for number, page in enumerate(reader.pages, 1):
                if text := _whole(page.extract_text()).strip():
                    pages.append((length, number))
                    texts.append(text)
                    length += len(text) + len(_GAPS[_PARAGRAPH])
                if length > most:
                    raise UnreadableError(f"it has more than {most:.0f} characters by page {number}")
            title = reader.metadata.title if reader.metadata else None
        except UnreadableError:
            raise
        except FileNotDecryptedError as error:
            raise UnreadableError("it is encrypted, and opens with a password only") from error
        except Exception as error:  # a broken PDF raises anything, as the parser itself says
            raise UnreadableError(
                f"it is no PDF, or not a whole one: {error or type(error).__name__}"
            ) from error
    if damaged := [text for name, text in remarks if name == "pypdf.filters"]:
        # The parser goes on without what it could not unpack.
        raise UnreadableError(f"a part of it is damaged: {damaged[0]}")
    said = tuple(dict.fromkeys(text for _, text in remarks))
    return Document(_GAPS[_PARAGRAPH].join(texts), kind, _title(title), tuple(pages), said)


@contextmanager
def _remarks(logger: str) -> Iterator[list[tuple[str, str]]]:
    """Collect what a package warns of (which of its modules, and what) instead of having it logged."""
    found: list[tuple[str, str]] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append((record.name, record.getMessage()))

    package, collector = logging.getLogger(logger), Collector(logging.WARNING)
    before = package.propagate
    package.addHandler(collector)
    package.propagate = False
    try:
        yield found
    finally:
        package.removeHandler(collector)
        package.propagate = before


def _declared(content: bytes, otherwise: str) -> str:
    """Return the encoding that an HTML document says it has."""
    found = _CHARSET.search(content, 0, _CHARSET_WITHIN)
    if found is None:
        return otherwise
    name = (found[1] or found[2]).decode("ascii", "replace")
    try:
        known = codecs.lookup(name).name
    except LookupError as error:
        raise UnreadableError(f"it says that its encoding is {name!r}, which there is not") from error
    return _TAKEN_FOR.get(known, known)


def _decoded(content: bytes, encoding: str) -> tuple[str, int]:
    """Return bytes as text, and how many of them are the mark that says the encoding, if there is one."""
    mark, encoding = next((one for one in _BYTE_ORDER_MARKS if content.startswith(one[0])), (b"", encoding))
    try:
        return content[len(mark) :].decode(encoding), len(mark)
    except UnicodeDecodeError as error:
        place = error.start + len(mark)
        raise UnreadableError(
            f"byte {place} (0x{content[place]:02x}) is not {encoding}: {error.reason}"
        ) from error
    except (UnicodeError, LookupError) as error:
        raise UnreadableError(f"it is not {encoding}: {error}") from error


def _html(source: str, kind: str) -> Document:
    from selectolax.lexbor import LexborHTMLParser

    parsed = LexborHTMLParser(source)
    title = parsed.css_first("title")
    root = parsed.body or parsed.root
    text = _Reading().read(root) if root else ""
    return Document(text, kind, _title(title.text() if title else None))


class _Reading:
    """Reads the elements of an HTML document as a person would: words, lines and paragraphs."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self._gap = _NONE
        self._as_written = 0

    def read(self, root: LexborNode) -> str:
        """Return the text of an element and all it holds."""
        node = root
        while True:
            entered = self._enters(node)
            following = node.first_child if entered else None
            while following is None:
                if entered:
                    self._leaves(node)
                if node.mem_id == root.mem_id:
                    return _whole("".join(self._said)).strip()
                following = node.next
                if following is None:
                    parent = node.parent
                    if parent is None:
                        return _whole("".join(self._said)).strip()
                    node, entered = parent, True
            node = following

    def _enters(self, node: LexborNode) -> bool:
        """Begin a node; tell whether what it holds is to be read, too."""
        if node.is_text_node:
            self._say(node.text_content or "")
            return False
        if not node.is_element_node or node.tag in _LEFT_OUT:
            return False
        self._as_written += node.tag in _AS_WRITTEN
        self._pause(node)
        return True

    def _leaves(self, node: LexborNode) -> None:
        self._as_written -= node.tag in _AS_WRITTEN
        if node.tag != "br":
            self._pause(node)

    def _pause(self, node: LexborNode) -> None:
        gap = _NONE
        if node.tag in _PARAGRAPHS:
            gap = _PARAGRAPH
        elif node.tag in _LINES:
            gap = _LINE
        elif node.tag in _CELLS:
            gap = _TAB
        elif node.tag == "br":
            gap = _PARAGRAPH if self._gap >= _LINE else _LINE
        self._gap = max(self._gap, gap)

    def _say(self, text: str) -> None:
        if self._as_written:
            words = text.replace("\r\n", "\n").replace("\r", "\n")
            before = after = _NONE
        else:
            spaced = _SPACES.sub(" ", text)
            words = spaced.strip(" ")
            before, after = (_SPACE if found else _NONE for found in (spaced[:1] == " ", spaced[-1:] == " "))
        self._gap = max(self._gap, before)
        if words:
            self._said += [_GAPS[self._gap] if self._said else "", words]
            self._gap = after


def _title(found: object) -> str | None:
    return (_SPACES.sub(" ", _whole(str(found))).strip() or None) if found else None


def _whole(text: str) -> str:
    """Return text that every engine takes: no zeros, and no half characters."""
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}").replace("\r\n", "\n").replace("\r", "\n")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
