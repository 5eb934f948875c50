"""From a source to a prediction and the reports on it: what everything that exists was made of.

Only reads. What it finds is one kind of graph (``graph``), whoever asks and whatever about; nothing here
knows how a graph is shown, but ``picture``, which draws one.
"""
