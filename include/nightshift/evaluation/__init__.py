"""Judges candidates and the champion on the same holdout rows, and decides who may be promoted.

The candidate put forward is chosen on validation rows; the holdout only says whether it may pass, so
the holdout's verdict is not the luckiest of several. No row that any compared model was fitted,
stopped or calibrated on takes part.
"""
