"""The command ``nightshift``. It composes the rooms for people and scripts; no rule of theirs lives here.

Heavy libraries are imported within commands, so that ``nightshift --help`` answers at once.
"""
