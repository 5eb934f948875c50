"""Documents that tests make for themselves."""

from __future__ import annotations

import io


def pdf(*pages: str, title: str | None = None) -> bytes:
    """Return a PDF with a page for each text, with its fonts inside it."""
    import matplotlib as mpl
    from matplotlib.backends.backend_pdf import FigureCanvasPdf, PdfPages
    from matplotlib.figure import Figure

    out = io.BytesIO()
    # Without the moment at which it was made, the same text makes the same bytes.
    said = {"Title": title, "CreationDate": None}
    with mpl.rc_context({"pdf.fonttype": 42}), PdfPages(out, metadata=said) as paper:
        for page in pages:
            figure = Figure()
            FigureCanvasPdf(figure)
            figure.text(0.1, 0.5, page)
            paper.savefig(figure)
    return out.getvalue()
