"""What documents say, and which of them are refused instead of read in part."""

from __future__ import annotations

import io
import os
import signal
import zlib
from pathlib import Path

import pytest
from tests.papers import pdf

from nightshift.errors import TransientError
from nightshift.sources.parser_process import ParserProcess
from nightshift.sources.parsing import Document, UnreadableError, language_of, parse


def read(name: str, content: bytes | str, encoding: str = "utf-8", most: float = 1e6) -> Document:
    return parse(
        name, content.encode() if isinstance(content, str) else content, encoding=encoding, most=most
    )


def test_a_pdf_is_read_page_by_page() -> None:
    document = read("a.PDF", pdf("Größe und λόγος", "", "Die dritte Seite.", title="Über alles"))
    assert document.text == "Größe und λόγος\n\nDie dritte Seite."
    assert (document.title, document.media_type) == ("Über alles", "application/pdf")
    places = (0, document.text.index("\n"), document.text.index("Die"), len(document.text) - 1)
    assert [document.page_at(place) for place in places] == [1, 1, 3, 3]


def test_html_is_read_as_a_person_would() -> None:
    document = read(
        "a.html",
        "<!doctype html><html><head><title>The \n page</title><style>p {}</style></head><body><nav>Home</nav>"
        "<h1>A  head</h1><p>One <b>bo</b>ld &amp; &eacute;.<br>Next<!-- no --><script>no()</script></p>"
        "<ul><li>a<li>b</ul><table><tr><td>1<td>2<tr><td>3</table><pre>x\n  y</pre>end",
    )
    assert document.text == "A head\n\nOne bold & é.\nNext\n\na\nb\n\n1\t2\n3\n\nx\n  y\n\nend"
    assert document.title == "The page"


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ('<meta charset="iso-8859-1"><p>„Müßig“'.encode("cp1252"), "utf-8"),
        (
            "<meta http-equiv=Content-Type content='text/html; charset=KOI8-R'><p>Мир".encode("koi8-r"),
            "utf-8",
        ),
        ("<p>Müßig".encode("latin-1"), "latin-1"),
        ("\ufeff<meta charset=ascii><p>Müßig".encode(), "latin-1"),
        ("\ufeff<p>Мир".encode("utf-16-le"), "utf-8"),
    ],
)
def test_html_has_the_encoding_that_it_says(content: bytes, encoding: str) -> None:
    assert read("a.htm", content, encoding).text in ("„Müßig“", "Müßig", "Мир")


def test_text_is_as_it_is_written() -> None:
    assert read("a.txt", "\ufeff one\r\ntwo\rthree \n").text == " one\ntwo\nthree \n"
    assert read("a.md", "# Title\n\n*text*").text == "# Title\n\n*text*"
    assert read("a.txt", "Müßig".encode("cp1252"), "cp1252").text == "Müßig"
    assert read("a.txt", b"").text == read("a.html", b"").text == ""


def encrypted() -> bytes:
    from pypdf import PdfWriter

    writer, out = PdfWriter(clone_from=io.BytesIO(pdf("secret"))), io.BytesIO()
    writer.encrypt("x", "y", algorithm="AES-256")
    writer.write(out)
    return out.getvalue()


def with_stream(content: bytes) -> bytes:
    """Return a PDF whose only page has this content."""
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R/Resources<</Font<</F<</Type/Font"
        b"/Subtype/Type1/BaseFont/Helvetica>>>>>>>>",
        b"<</Filter/FlateDecode/Length %d>>stream\n%s\nendstream" % (len(content), content),
    ]
    out, places = b"%PDF-1.4\n", []
    for number, one in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj%s endobj\n" % (number, one)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return (
        out
        + b"xref\n0 5\n0000000000 65535 f \n%strailer\n<</Size 5/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n"
        % (
            table,
            len(out),
        )
    )


WORDS = zlib.compress(b"BT /F 9 Tf (some words) Tj ET " * 200)


def test_the_pdf_of_these_tests_can_be_read() -> None:
    assert read("a.pdf", with_stream(WORDS)).text.startswith("some words")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pdf", b"", "no PDF, or not a whole one"),
        ("a.pdf", b"hello", "no PDF, or not a whole one"),
        ("a.pdf", pdf("one", "two")[:-200], "no PDF, or not a whole one"),
        ("a.pdf", encrypted(), "it is encrypted"),
        ("a.pdf", with_stream(WORDS[:20] + b"\xff" * 20 + WORDS[40:]), "a part of it is damaged"),
        ("a.pdf", with_stream(zlib.compress(b" " * 80_000_000)), "no PDF, or not a whole one: Limit reached"),
        ("a.txt", b"ab\xffc", "byte 2 (0xff) is not utf-8"),
        ("a.txt", b"\xef\xbb\xbfa\xff", "byte 4 (0xff) is not utf-8"),
        ("a.txt", b"a\0b", "character 1 is a zero"),
        ("a.html", b"<meta charset=utf-8>\xff", "byte 20 (0xff) is not utf-8"),
        ("a.html", b"<meta charset=utf-99>", "'utf-99', which there is not"),
        ("a.html", b"<meta charset=base64>", "it is not base64"),
    ],
)
def test_what_cannot_be_read_as_a_whole_is_refused(name: str, content: bytes, message: str) -> None:
    with pytest.raises(UnreadableError) as error:
        read(name, content)
    assert message in str(error.value)


def test_a_pdf_whose_text_has_no_end_is_refused() -> None:
    with pytest.raises(UnreadableError, match="more than 1000 characters by page 1"):
        read("a.pdf", with_stream(WORDS), most=1000)


def test_a_document_that_hangs_its_parser_is_refused_and_the_next_one_is_read() -> None:
    with ParserProcess() as parser:
        assert parser.parse("a.txt", b"one", encoding="utf-8", most=99, seconds=60).text == "one"
        with pytest.raises(UnreadableError, match=r"takes more than 0\.5 s"):
            parser.parse("a.html", b"<div>" * 3_000_000, encoding="utf-8", most=99, seconds=0.5)
        assert parser.parse("a.txt", b"two", encoding="utf-8", most=99, seconds=60).text == "two"
        with pytest.raises(UnreadableError, match="byte 0"):
            parser.parse("a.txt", b"\xff", encoding="utf-8", most=99, seconds=60)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        (signal.SIGKILL, TransientError, r"was killed \(-9\) while it read a.txt"),
        (signal.SIGSEGV, UnreadableError, r"crashed \(-11\)"),
    ],
)
def test_a_parser_that_dies_is_told_apart_from_one_that_is_killed(
    how: int, error: type[Exception], message: str
) -> None:
    with ParserProcess() as parser:
        parser.parse("a.txt", b"one", encoding="utf-8", most=99, seconds=60)
        assert parser.process is not None
        os.kill(parser.process.pid, how)
        with pytest.raises(error, match=message):
            parser.parse("a.txt", b"two", encoding="utf-8", most=99, seconds=60)
        assert parser.parse("a.txt", b"three", encoding="utf-8", most=99, seconds=60).text == "three"
        running = parser.process
    assert running is not None
    assert running.poll() is not None, "the parser ends with the capture"


def test_a_document_that_fills_the_memory_is_refused() -> None:
    with ParserProcess() as parser, pytest.raises(UnreadableError, match="its parser crashed"):
        parser.parse("a.html", b"<p>" * 16_000_000, encoding="utf-8", most=1e9, seconds=300)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The committee meets on the first Monday of each month, unless it is a holiday.", "en"),
        ("Der Ausschuss tagt am ersten Montag eines jeden Monats, sofern dies kein Feiertag ist.", "de"),
        ("委員会は毎月最初の月曜日に開かれます。", "ja"),
        ("Комитет собирается в первый понедельник каждого месяца.", "ru"),
        ("ok", None),
        ("12 345 - 67", None),
        ("", None),
    ],
)
def test_the_language_is_told_where_it_can_be(text: str, language: str | None) -> None:
    assert language_of(text) == language


def test_the_parser_sees_no_keys_and_no_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = "not-for-a-parser"
    names = (
        "NIGHTSHIFT_PII_KEY",
        "NIGHTSHIFT_SOURCE_SHOP",
        "AWS_SECRET_ACCESS_KEY",
        "AIRFLOW__CORE__FERNET_KEY",
    )
    for name in names:
        monkeypatch.setenv(name, hidden)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    with ParserProcess() as parser:
        document = parser.parse("a.pdf", pdf("Größe"), encoding="utf-8", most=1e6, seconds=60)
        assert document.text == "Größe"
        assert parser.process is not None
        given = Path(f"/proc/{parser.process.pid}/environ").read_text()
    seen = dict(one.split("=", 1) for one in given.split("\0") if one)
    assert seen.keys() & {"PATH", "PYTHONPATH", "LC_ALL"} == {"PATH", "PYTHONPATH", "LC_ALL"}
    assert not [name for name in seen if name.startswith(("NIGHTSHIFT_", "AWS_", "AIRFLOW_"))]
    assert hidden not in given
