"""Ingestion: from a source to the lake, for one partition or many, by the night or for the whole history.

The room promises that a partition ends up the same whichever way it was landed: alone or with others, in any
order of nights, once or again after a crash. The manifest is written last, so a version that counts always
has its object and its quarantined rows.
"""

from nightshift.ingestion.feedback import record_feedback
from nightshift.ingestion.land import land_good, land_partitions
from nightshift.ingestion.replay import replay

__all__ = ["land_good", "land_partitions", "record_feedback", "replay"]
