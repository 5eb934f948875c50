"""Everything that differs between environments, read from ``NIGHTSHIFT_*`` once.

Nothing else in the library reads environment variables or knows where the checkout lies.
"""

from __future__ import annotations

import base64
import os
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from nightshift.errors import DataError

_CHECKOUT = Path(__file__).resolve().parents[2]
_PREFIX = "NIGHTSHIFT_"

Role = Literal["reader", "operator", "approver", "admin"]
"""Who may do what: each may do what those before it may."""


class Prices(BaseModel):
    """What an hour costs. By default in hours of one core, memory and GPU weighed roughly as clouds do.

    So with the defaults a cost of 1 is that of one core's hour, whatever that is where you are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: str = Field("CPU-hours", description="What costs are in: a currency, once the prices are yours.")
    cpu_hour: float = Field(1.0, ge=0, description="Of an hour of one core at work.")
    gb_hour: float = Field(0.1, ge=0, description="Of holding 1 GiB of memory for an hour.")
    gpu_hour: float = Field(50.0, ge=0, description="Of holding a GPU for an hour.")

    def __str__(self) -> str:
        """Return what the variable would hold."""
        return self.model_dump_json()


class Settings(BaseSettings):
    """One frozen view of the environment."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="ignore")

    project: Path = Field(_CHECKOUT, description="The checkout: dags/, dbt_project/, expectations/.")
    home: Path = Field(_CHECKOUT / ".nightshift", description="All state; deleting it resets everything.")
    lake: str = Field("", description="file:// or s3:// URI of the lake; empty: <home>/lake.")
    lake_key: SecretStr = Field(
        SecretStr(""),
        description="Key of columns that sources.yml wants encrypted; older ones behind it, after commas.",
    )
    pii_key: SecretStr = Field(
        SecretStr(""),
        description="Key that personal columns are pseudonymised with, as sources.yml wants; only one.",
    )
    audit_key: SecretStr = Field(
        SecretStr(""),
        description="Key of the audit log's hashes, outside the lake; older ones behind it, after commas.",
    )
    role: Role = Field(
        "admin", description="What commands may be used here: reader, operator, approver, admin."
    )
    s3_encryption: Literal["", "AES256", "aws:kms"] = Field(
        "", description="How S3 shall encrypt what is written: AES256, aws:kms; empty: as the bucket says."
    )
    s3_kms_key: str = Field("", description="Id of the key for aws:kms; empty: the account's own key for S3.")
    warehouse: Literal["duckdb", "postgres"] = Field("duckdb", description="The engine behind dbt.")
    dbt_threads: int = Field(
        4, ge=1, description="dbt models built at once on PostgreSQL; as many sessions of its server."
    )
    postgres_url: str = Field("", description="PostgreSQL server URL; empty: the embedded server.")
    mlflow_url: str = Field(
        "", pattern=r"^$|^[a-z0-9+]+:", description="MLflow tracking URI; empty: SQLite under <home>/mlflow."
    )
    host: str = Field("127.0.0.1", description="Address the services listen on.")
    airflow_port: int = Field(8080, ge=1, le=65535, description="Port of Airflow's API server and UI.")
    mlflow_port: int = Field(5000, ge=1, le=65535, description="Port of the MLflow UI.")
    postgres_port: int = Field(5433, ge=1, le=65535, description="TCP port of the embedded PostgreSQL.")
    redis_port: int = Field(6379, ge=1, le=65535, description="Port of Redis, in the stack of docker/.")
    s3_port: int = Field(
        8333,
        ge=1,
        le=55532,
        description="Port of the object store, in the stack of docker/; the three above it are its too, "
        "and all four plus 10,000.",
    )
    store_seconds: float = Field(
        60, gt=0, description="An S3 store that says nothing for so long has failed, and is asked again."
    )
    stack_files: str = Field(
        "",
        description="Compose files of docker/ that `make stack-local` lays over compose.yaml, such as "
        "compose.git.yaml.",
    )
    pod_templates: str = Field(
        "", description="Folder of pod templates, <queue>.yaml each, for Airflow's KubernetesExecutor."
    )
    ray_address: str = Field(
        "",
        description="Address of a Ray cluster's head, host:port, for use cases whose engine is ray; empty: a "
        "cluster on this machine, for the length of the job.",
    )
    parallelism: int = Field(4, ge=1, description="Airflow tasks at once; ranges are cut for as many.")
    retry_seconds: float = Field(30, gt=0, description="Pause before a task is tried again.")
    task_hours: float = Field(
        24,
        gt=0,
        le=168,
        description="A task that runs longer has failed, and is not tried again; 168 at most, a week.",
    )
    image: str = Field("", description="Container image that this runs in; set when it is built.")
    docs_url: str = Field("", description="Where people read docs/, for links in alerts; empty: its path.")
    reports_url: str = Field(
        "", description="Where people read <home>/reports, for links in alerts; empty: its path."
    )
    commit: str = Field("", description="Commit that the image was built from; empty: the checkout's.")
    prices: Prices = Field(
        Prices(), description="What an hour of compute costs: docs/monitoring-resources.md."
    )
    live_from: date = Field(
        date(2999, 1, 1),
        description="First day the nightly schedule runs by itself. Far away by default, so that "
        "unpausing never starts a stray night; set it after bootstrapping through the day before.",
    )

    @field_validator("role", mode="before")
    @classmethod
    def _given(cls, value: object) -> object:
        """A variable that is empty says nothing, as in compose files; then it is the default."""
        return cls.model_fields["role"].default if value == "" else value

    @field_validator("lake_key", "audit_key", "pii_key")
    @classmethod
    def _are_keys(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        given = value.get_secret_value()
        for key in filter(None, [given] if info.field_name == "pii_key" else given.split(",")):
            try:
                whole = len(base64.urlsafe_b64decode(key)) == 32
            except ValueError:
                whole = False
            if not whole:
                raise ValueError(
                    "each key is 32 random bytes in URL-safe base64, as docs/security.md makes one"
                )
        return value

    @field_validator("s3_kms_key")
    @classmethod
    def _is_used(cls, value: str, info: ValidationInfo) -> str:
        if value and info.data.get("s3_encryption") != "aws:kms":
            raise ValueError("nothing uses it without NIGHTSHIFT_S3_ENCRYPTION=aws:kms")
        return value

    @field_validator("postgres_url")
    @classmethod
    def _readable(cls, value: str) -> str:
        """A password with a character that URLs reserve would be cut, and its rest shown in errors."""
        if not value:
            return value
        parts = urlsplit(value)
        try:
            whole = parts.port is None or parts.port > 0
        except ValueError:
            whole = False
        reserved = parts.netloc.count("@") > 1 or "@" in parts.path + parts.query + parts.fragment
        if parts.scheme not in {"postgresql", "postgres"} or reserved or not whole:
            raise ValueError(
                # pragma: allowlist nextline secret
                "write postgresql://user:password@host:port, reserved characters of the password as %40 for "
                "@, %2F for / and so on"
            )
        return value

    @property
    def lake_uri(self) -> str:
        """URI of the lake, without a trailing slash."""
        return (self.lake or f"file://{self.home / 'lake'}").rstrip("/")

    @property
    def usecases(self) -> Path:
        """Folder that holds one folder a use case."""
        return self.project / "include" / "usecases"

    @property
    def expectations(self) -> Path:
        """Folder of Great Expectations suites, one folder a use case."""
        return self.project / "expectations"

    @property
    def dbt_project(self) -> Path:
        """Folder of the dbt project."""
        return self.project / "dbt_project"

    @property
    def airflow_home(self) -> Path:
        """``AIRFLOW_HOME``."""
        return self.home / "airflow"

    @property
    def mlflow_uri(self) -> str:
        """MLflow tracking and registry URI."""
        return self.mlflow_url or f"sqlite:///{self.home / 'mlflow' / 'mlflow.db'}"


@lru_cache(maxsize=1)
def settings() -> Settings:
    """Return the settings of this process, read once (``settings.cache_clear()`` forgets them).

    Raises:
        DataError: A variable has a value that it cannot have.
    """
    try:
        # A file of this folder counts like the variable of its name: nightshift_postgres_url.
        return Settings(_secrets_dir=os.environ.get(f"{_PREFIX}SECRETS"))
    except ValidationError as error:
        # The value is not shown: some hold passwords.
        wrong = error.errors(include_input=False)[0]
        name = str(wrong["loc"][0])
        raise DataError(
            f"cannot use {_PREFIX}{name.upper()}: {wrong['msg'].removeprefix('Value error, ')}",
            rule=Settings.model_fields[name].description or name,
            where="the environment",
            cure="correct or unset the variable",
        ) from None
    except SettingsError:
        raise DataError(
            f"cannot use {_PREFIX}PRICES: it is no JSON",
            rule="the price table is a JSON object",
            where="the environment",
            cure='correct or unset the variable; such as {"unit": "EUR", "cpu_hour": 0.04}',
        ) from None


def source_address(source: str) -> str:
    """Return the address of a source's server, with its password: keep it out of logs.

    It is ``NIGHTSHIFT_SOURCE_<NAME>`` of the environment, or the file of that name (in small letters) in the
    folder ``NIGHTSHIFT_SECRETS``.

    Raises:
        DataError: There is neither.
    """
    name = f"{_PREFIX}SOURCE_{source.upper()}"
    if address := os.environ.get(name):
        return address
    folder = os.environ.get(f"{_PREFIX}SECRETS")
    if folder and (file := Path(folder) / name.lower()).is_file():
        return file.read_text(encoding="utf-8").strip()
    raise DataError(
        f"nothing says where the source {source!r} is",
        rule=f"{name} holds the address of the source, with user and password",
        where=name,
        cure="set it, or write it to a file of the folder NIGHTSHIFT_SECRETS",
    )
