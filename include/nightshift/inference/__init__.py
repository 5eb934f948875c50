"""Scores a partition with the champion in force on it, and hands predictions on.

- Memory follows the batch, not the partition: features are streamed and only predictions are kept.
- The same features and the same model give the same content hash, however often and by whomever they
  are scored; each prediction names the versions it came from.
- What applications read is a copy that can be made again from the lake at any time.
"""
