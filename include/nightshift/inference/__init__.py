"""Scores a partition with the champion in force on it, and hands predictions on.

- Features are streamed: of a partition, only its predictions are in memory at once.
- The same features and the same model give the same content hash, however often and by whomever they
  are scored; each prediction names the versions it came from.
- What applications read is a copy that can be made again from the lake at any time.
"""
