"""The secrets of the stack in ``docker/``: files, all written at once, none with a default.

A service is handed the files it needs and no others. Addresses stand in the same files as passwords, so a
team that has servers of its own replaces what is in their files (docs/production.md).
"""

from __future__ import annotations

import base64
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from secrets import token_bytes, token_hex, token_urlsafe

from nightshift.errors import DataError

_AUDIT_KEY = "nightshift_audit_key"


@dataclass(frozen=True)
class Places:
    """Where the servers are, as the services see them, and who the superuser of PostgreSQL is."""

    postgres: str = "postgres:5432"
    redis: str = "redis:6379"
    superuser: str = "postgres"
    superuser_password: str = ""


def names() -> set[str]:
    """Return the names of all files."""
    return set(_contents(Places()))


def write(folder: Path, places: Places) -> bool:
    """Write every secret into ``folder``, unless they are there; return whether this call wrote them.

    The folder is closed to other users. The files are not: each container reads them as a user of its own.

    Raises:
        DataError: The folder holds some of them, and not all.
    """
    contents = _contents(places)
    if folder.exists():
        missing = sorted(name for name in contents if not (folder / name).exists())
        if not missing:
            return False
        # What an earlier release did not write, and shares nothing with the others.
        if missing == [_AUDIT_KEY]:
            _write(folder / _AUDIT_KEY, contents[_AUDIT_KEY])
            return True
        if any(folder.iterdir()):
            raise DataError(
                f"{folder} lacks {', '.join(missing)}",
                rule="secrets are written together, for some hold the same password",
                where=str(folder),
                cure="bring the missing files back; or, before the first start, delete the folder",
            )
    draft = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700, parents=True)
    for name, content in contents.items():
        _write(draft / name, content)
    draft.replace(folder)
    return True


def _write(file: Path, content: str) -> None:
    file.write_text(content, encoding="ascii")
    file.chmod(0o644)


# Who may do what in the object store, by the suffix of the file that holds the key. A worker that could write
# artifacts could replace models; MLflow has no business in the lake.
_IN_BUCKET = ("Read", "Write", "List", "Tagging")
_IDENTITIES = {
    "": [f"{action}:{bucket}" for bucket in ("nightshift", "airflow-logs") for action in _IN_BUCKET],
    "_mlflow": [f"{action}:mlflow" for action in _IN_BUCKET],
    "_admin": ["Admin", *_IN_BUCKET],
}


def _contents(places: Places) -> dict[str, str]:
    superuser_password = places.superuser_password or token_urlsafe(32)
    redis = token_urlsafe(32)
    keys = {suffix: (token_hex(10), token_urlsafe(32)) for suffix in _IDENTITIES}
    identities = [
        {
            "name": f"nightshift{suffix}",
            "credentials": [{"accessKey": key, "secretKey": secret_key}],
            "actions": _IDENTITIES[suffix],
        }
        for suffix, (key, secret_key) in keys.items()
    ]

    def database(role: str, scheme: str = "postgresql") -> str:
        return f"{scheme}://{role}:{token_urlsafe(32)}@{places.postgres}/{role}"

    return {
        "postgres_password": superuser_password,
        "postgres_admin": f"postgresql://{places.superuser}:{superuser_password}@{places.postgres}/postgres",
        "airflow_database": database("airflow", "postgresql+psycopg2"),
        "airflow_results": database("celery", "db+postgresql+psycopg2"),
        "airflow_broker": f"redis://:{redis}@{places.redis}/0",
        "airflow_fernet_key": base64.urlsafe_b64encode(token_bytes(32)).decode(),
        "airflow_secret_key": token_urlsafe(32),
        "airflow_jwt_secret": token_urlsafe(64),
        "airflow_admin_password": token_urlsafe(24),
        "mlflow_database": database("mlflow"),
        "nightshift_postgres_url": database("pipeline"),
        # None, until somebody encrypts or pseudonymises columns: docs/security.md.
        "nightshift_lake_key": "",
        _AUDIT_KEY: base64.urlsafe_b64encode(token_bytes(32)).decode(),
        "nightshift_pii_key": "",
        "redis.conf": f"requirepass {redis}\n",
        "s3.json": json.dumps({"identities": identities}, indent=1),
        **{
            f"aws_credentials{suffix}": f"[default]\naws_access_key_id = {key}\n"
            f"aws_secret_access_key = {secret_key}\n"
            for suffix, (key, secret_key) in keys.items()
        },
    }
