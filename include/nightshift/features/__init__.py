"""Feature partitions: built in the warehouse, staged for validation, published to the lake at a version."""
