"""The Ray cluster that one job runs on: the one of the settings, else one of this machine for its length.

Only what runs on Ray imports this, and this imports Ray only when a job needs it. Nothing of a cluster that
is started here listens beyond loopback, and Ray's usage reports are off.
"""

from __future__ import annotations

import logging
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from nightshift.environment import variables
from nightshift.errors import DataError, NightshiftError, TransientError
from nightshift.settings import settings

log = logging.getLogger(__name__)

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # Workers that reserve no GPU see none, so a job without GPUs computes on CPUs wherever it lands.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}
# Ray and gloo take the machine's outer address where they may; this keeps them to loopback.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "GLOO_SOCKET_IFNAME": "lo"}
# Of every cluster that this process starts: Ray reads it once. Without, it keeps one in the home folder.
_TOKEN = {"RAY_AUTH_TOKEN": secrets.token_hex(32)}


@contextmanager
def joined(cpus: int, gpus: int, where: str) -> Iterator[None]:
    """Be connected to a Ray cluster, and leave it afterwards.

    With ``NIGHTSHIFT_RAY_ADDRESS`` it is the one of that address, of which this machine has to be a node.
    Without, one is started on this machine with what the job needs, and stopped when the job has ended,
    however it ended. What Ray raises meanwhile becomes one of Nightshift's errors.

    Args:
        cpus: What a cluster of this machine offers, whatever the machine has: Ray only counts them.
        gpus: Likewise.
        where: The use case and the job, for errors.

    Raises:
        DataError: Ray is not installed.
        TransientError: The cluster is not reached, or failed.
    """
    address = settings().ray_address
    # Ray reads some of it when it is imported, and its processes when they start.
    needed = _QUIET if address else _QUIET | _LOOPBACK | _TOKEN
    scratch = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
    with variables(needed), scratch as folder:
        try:
            import ray
        except ImportError as error:
            raise DataError(
                f"the engine is ray, but Ray is not installed: {error}",
                rule="the engine ray needs the package ray",
                where=where,
                cure="install the optional dependencies `production` wherever tasks run, as make .venv does; "
                "or set engine: local in usecase.yml",
            ) from error
        try:
            if address:
                ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": _lake()})
            else:
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    num_gpus=gpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=folder,
                )
        except (OSError, RuntimeError, ray.exceptions.RayError) as error:
            raise TransientError(
                f"{where}: no Ray cluster at {address or 'this machine'}: {error}"
            ) from error
        log.info("%s: on Ray, %s", where, ray.cluster_resources())
        try:
            yield
        except ray.exceptions.RayError as error:
            raise translated(error, where) from error
        finally:
            ray.shutdown()


def _lake() -> dict[str, str]:
    """Return what workers of other machines need to use this lake; credentials are their machines' own."""
    found = {"NIGHTSHIFT_HOME": str(settings().home), "NIGHTSHIFT_LAKE": settings().lake_uri}
    return found | ({"NIGHTSHIFT_MLFLOW_URL": settings().mlflow_url} if settings().mlflow_url else {})


def translated(error: Exception, where: str) -> NightshiftError:
    """Return the error of Nightshift's own that a worker raised, else one that names what failed on Ray."""
    return _ours(error, set()) or TransientError(f"{where}: the job failed on Ray: {error}")


def _ours(error: object, seen: set[int]) -> NightshiftError | None:
    """Look for it in what an error of Ray's names as its cause, whichever way it does so."""
    if not isinstance(error, BaseException) or id(error) in seen:
        return None
    seen.add(id(error))
    workers = list(getattr(error, "worker_failures", {}).values())
    if any(_ours(one, set(seen)) is None for one in workers):
        # One was lost, and what the others say is that they miss it.
        return None
    # What a worker raised comes as that and as Ray's at once; its cause is the one that was raised.
    if isinstance(error, DataError | TransientError) and type(error) in (DataError, TransientError):
        return error
    behind = (getattr(error, "cause", None), error.__cause__, error.__context__, *workers)
    return next((found for one in behind if (found := _ours(one, seen))), None)
