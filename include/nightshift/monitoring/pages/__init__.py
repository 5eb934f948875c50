"""The pages that people read: one a night, one a week, and an index, under ``<home>/reports/<use case>``.

- A page says what the tables of monitoring say, and computes no figure of its own.
- Any table may be absent or have no row for the night: its place then says so, and why that may be.
- Each is one file without scripts or outside files, written whole or not at all. The same tables give the
  same bytes, and a page whose tables have changed is drawn again.
- A verdict is a word and a sign; colour only repeats it.
"""
