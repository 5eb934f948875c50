"""What is in production, what was on any day, and what a stored model is.

- A model is registered once: the same content hash on the same snapshot is the same version.
- The append-only deployment log is the truth about production; MLflow's aliases follow it.
- A loaded model scores exactly as it did in the training that made it, from its own files alone.
"""

import os

# Threads that spin while they wait steal the cores they wait for: with two busy cores, training on two
# threads took six times as long as on one. OpenMP reads this once, when XGBoost, scikit-learn or torch are
# first imported; models are made and read only through this package.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
