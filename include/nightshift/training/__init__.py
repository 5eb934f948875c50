"""From published features and known labels to candidates, reproducibly.

- A snapshot is frozen, named by its content hash, and holds nothing that was not known at its night.
- Rows are split by time: train, then validation, then holdout. Trainers never see the holdout.
- The same snapshot, parameters and seed give the same model, byte for byte (on the same kind of device).
"""
