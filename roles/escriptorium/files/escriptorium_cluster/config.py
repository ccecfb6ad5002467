"""The cluster's configuration, read once from the environment. Pure: no Django, no file and no network access.

Every process of the platform gets the same environment file from systemd. Upstream's own variable names are kept
where upstream reads them; names that start with ``CLUSTER_`` are ours, because upstream hard-codes the value,
reads it with the wrong type, or ignores the variable.
"""

from __future__ import annotations

import math
import re
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode

from escriptorium_cluster.address_rules import networks
from escriptorium_cluster.gate.rules import Rule, read_site_rule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Seconds after which Redis hands out again a job that nobody has acknowledged. Has to be above the longest training.
DEFAULT_VISIBILITY_TIMEOUT = 604800
#: How often one job may be started before it is given up (a job that kills its worker by memory would loop for ever).
DEFAULT_TASK_MAX_STARTS = 3
#: Seconds of silence after which a worker counts as dead and its jobs go to others.
DEFAULT_LEASE_SECONDS = 900
#: Seconds after which a job that the database knows and no message is given up.
DEFAULT_ORPHAN_SECONDS = 300
#: Wrong passwords for one account from one network before it has to wait.
DEFAULT_LOGIN_FAILURES = 10
#: Seconds from the first of these until they are forgotten.
DEFAULT_LOGIN_LOCK_SECONDS = 900
#: Hours after which an administrator has to log in again.
DEFAULT_ADMIN_SESSION_HOURS = 12
#: Characters of a password, at the least.
PASSWORD_MIN_LENGTH = 12
#: Seconds that jobs wait in a queue before a worker of another queue helps out.
DEFAULT_OVERFLOW_SECONDS = 10
#: Trainings of segmenters, which need more memory of a GPU than others. eScriptorium itself has one queue for all.
LARGE_QUEUE = "gpu-large"
#: Trainings beyond what one user may run at a time; nobody consumes it: see training_slots.py.
HELD_QUEUE = "trainings-held"
#: Queues of eScriptorium and of the cluster, in the order in which a person asks for them.
QUEUES = ("live", "default", "low-priority", "gpu", LARGE_QUEUE, "imports", "jvm", HELD_QUEUE)
#: Tasks that mark a model as being in training while they run.
TRAININGS = frozenset({"core.tasks.train", "core.tasks.segtrain"})
#: Task that brings documents in.
IMPORT = "imports.tasks.document_import"
#: Secret keys that are public knowledge: upstream's default in the code and in its example of an environment file.
KNOWN_SECRET_KEYS = frozenset({"a-beautiful-snowflake", "changeme"})
#: Numeric precisions of PyTorch Lightning 2 that Kraken's trainer takes.
PRECISIONS = frozenset(
    {"64", "64-true", "32", "32-true", "16", "16-true", "16-mixed", "bf16", "bf16-true", "bf16-mixed"}
)
EMAIL_SECURITY = frozenset({"none", "starttls", "tls"})
LOG_LEVELS = frozenset({"DEBUG", "INFO", "WARNING", "ERROR"})

Value = TypeVar("Value")


class ConfigError(ValueError):
    """The environment does not describe a working platform; ``problems`` names every bad variable, never a secret."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("wrong environment: " + "; ".join(problems))


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """Where Redis answers and how patient it is with unacknowledged jobs (``visibility_timeout``: seconds).

    ``authority``: file with the certificate of who signs that of the server; empty where the connection is in clear.
    """

    host: str
    port: int
    password: str = field(repr=False)
    visibility_timeout: int = DEFAULT_VISIBILITY_TIMEOUT
    authority: str = ""

    def url(self, database: int) -> str:
        """Return the ``redis://`` or ``rediss://`` URL of one numbered database, with the password quoted for a URL."""
        return redis_url(self.host, self.port, self.password, database, self.authority)

    def tls(self) -> ssl.SSLContext | None:
        """Return how a connection is verified by those that take no URL; nothing where it is in clear."""
        return ssl.create_default_context(cafile=self.authority) if self.authority else None

    def transport_options(self) -> dict[str, int]:
        """Return Celery's transport options.

        kombu lets whichever process looks first return "lost" jobs to the queue, and goes by its *own* timeout: one
        client with the default of 3600 s starts every training of more than an hour a second time. Hence the same
        options for each process, the inspecting ones too.
        """
        return {"visibility_timeout": self.visibility_timeout}


@dataclass(frozen=True, slots=True)
class DatabaseConfig:
    """Where PostgreSQL answers, for programs that do not load Django."""

    host: str
    port: int
    name: str
    user: str
    password: str = field(repr=False)
    authority: str = ""

    def options(self) -> dict[str, str]:
        """Return libpq's words for a connection that is encrypted and verified; none where it is in clear."""
        return {"sslmode": "verify-full", "sslrootcert": self.authority} if self.authority else {}

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of ``psycopg2.connect``."""
        return {
            "host": self.host, "port": self.port, "dbname": self.name, "user": self.user, "password": self.password,
            **self.options(),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """All that the settings module needs. Times in seconds, sizes in MiB."""

    secret_key: str = field(repr=False)
    allowed_hosts: tuple[str, ...]
    csrf_trusted_origins: tuple[str, ...]
    media_root: str
    static_root: str
    broker: BrokerConfig
    database_options: Mapping[str, str]
    task_max_starts: int
    lease_seconds: int
    overflow_queues: tuple[str, ...]
    overflow_seconds: int
    user_trainings: int
    user_trainings_running: int
    import_requests_per_host: int
    import_patience_seconds: int
    fetch_timeout_seconds: int
    import_internal_networks: tuple[str, ...]
    import_refused_networks: tuple[str, ...]
    site: str
    upload_max_mib: int
    archive_max_mib: int
    archive_max_files: int
    training_batch_size: int
    training_precision: str
    gpu_cost: float
    cookie_secure: bool
    login_failures: int
    login_lock_seconds: int
    admin_session_hours: int
    email_host: str
    email_port: int
    email_user: str
    email_password: str = field(repr=False)
    email_security: str
    iiif_quality: str
    log_level: str
    gate_views: tuple[tuple[str, Rule], ...]


@dataclass(frozen=True, slots=True)
class ServicesConfig:
    """Where the services are that every process needs."""

    broker: BrokerConfig
    database: DatabaseConfig
    media_root: str


@dataclass(frozen=True, slots=True)
class ReaperConfig:
    """What the reaper has to know: broker, database, and its times in seconds."""

    broker: BrokerConfig
    database: DatabaseConfig
    lease_seconds: int
    orphan_seconds: int


def redis_url(host: str, port: int, password: str, database: int, authority: str = "") -> str:
    """Return ``redis://:PASSWORD@HOST:PORT/DATABASE``; every reserved character of the password is percent-encoded.

    With ``authority`` a ``rediss://`` URL in the words that Celery, kombu and redis-py all read: without the last of
    them they would take any certificate of that authority, for whatever host (redis 4.4.4, kombu 5.3.7).
    """
    address = f":{quote(password, safe='')}@{host}:{port}/{database}"
    if not authority:
        return f"redis://{address}"
    words = {"ssl_cert_reqs": "required", "ssl_ca_certs": authority, "ssl_check_hostname": "true"}
    return f"rediss://{address}?{urlencode(words)}"


class _Reader:
    """Reads typed values from an environment and collects the problems instead of stopping at the first."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.problems: list[str] = []

    def text(self, name: str, default: str | None = None, *, secret: bool = False) -> str:
        """Return a non-empty text; without a default it is required."""
        value = self.environment.get(name, "").strip() if not secret else self.environment.get(name, "")
        if value:
            return value
        if default is None:
            self.problems.append(f"{name} is not set")
            return ""
        return default

    def parsed(self, name: str, default: Value, parse: Callable[[str], Value], wanted: str) -> Value:
        """Return ``parse(text)``, or the default when the variable is unset or empty."""
        raw = self.environment.get(name, "").strip()
        if not raw:
            return default
        try:
            return parse(raw)
        except ValueError:
            self.problems.append(f"{name} is '{raw}', expected {wanted}")
            return default

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """Return a whole number between two bounds, both included."""

        def parse(raw: str) -> int:
            number = int(raw)
            if not low <= number <= high:
                raise ValueError(raw)
            return number

        return self.parsed(name, default, parse, f"a whole number from {low} to {high}")

    def choice(self, name: str, default: str, choices: frozenset[str]) -> str:
        """Return one of a set of words."""

        def parse(raw: str) -> str:
            if raw not in choices:
                raise ValueError(raw)
            return raw

        return self.parsed(name, default, parse, "one of " + ", ".join(sorted(choices)))

    def boolean(self, name: str, *, default: bool) -> bool:
        """Return True for ``true`` and False for ``false``; nothing else, so that nobody has to guess."""
        words = {"true": True, "false": False}

        def parse(raw: str) -> bool:
            if raw.lower() not in words:
                raise ValueError(raw)
            return words[raw.lower()]

        return self.parsed(name, default, parse, "true or false")

    def words(self, name: str) -> tuple[str, ...]:
        """Return a required, comma separated list."""
        words = tuple(part.strip() for part in self.environment.get(name, "").split(",") if part.strip())
        if not words:
            self.problems.append(f"{name} is not set")
        return words

    def queues(self, name: str) -> tuple[str, ...]:
        """Return a comma separated list of queues, none by default."""

        def parse(raw: str) -> tuple[str, ...]:
            queues = tuple(dict.fromkeys(part.strip() for part in raw.split(",") if part.strip()))
            if not set(queues) <= set(known):
                raise ValueError(raw)
            return queues

        known = [queue for queue in QUEUES if queue != HELD_QUEUE]
        return self.parsed(name, (), parse, "queues of " + ", ".join(known))

    def networks(self, name: str) -> tuple[str, ...]:
        """Return a comma separated list of networks in CIDR notation, none by default."""

        def parse(raw: str) -> tuple[str, ...]:
            words = tuple(part.strip() for part in raw.split(",") if part.strip())
            networks(words)
            return words

        return self.parsed(name, (), parse, "networks as 10.10.0.0/24")

    def site_rules(self, name: str) -> tuple[tuple[str, Rule], ...]:
        """Return a comma separated list of views and what their keys name, none by default."""
        rules = []
        for part in self.environment.get(name, "").split(","):
            if part.strip():
                try:
                    rules.append(read_site_rule(part))
                except ValueError as error:
                    self.problems.append(f"{name}: {error}")
        return tuple(rules)

    def directory(self, name: str) -> str:
        """Return an absolute path (whether it exists is asked by ``wait``, not here)."""
        value = self.text(name)
        if value and not value.startswith("/"):
            self.problems.append(f"{name} is '{value}', expected an absolute path")
        return value.rstrip("/")

    def checked(self, config: Value) -> Value:
        """Return what was made of the variables, or raise ConfigError with all that is wrong with them."""
        if self.problems:
            # A variable that two parts read is named once.
            raise ConfigError(list(dict.fromkeys(self.problems)))
        return config


def _cost(raw: str) -> float:
    """Return a finite number that is not negative; anything else raises ValueError."""
    cost = float(raw)
    if not math.isfinite(cost) or cost < 0:
        raise ValueError(raw)
    return cost


def _read_broker(read: _Reader) -> BrokerConfig:
    return BrokerConfig(
        host=read.text("REDIS_HOST"),
        port=read.integer("REDIS_PORT", 6379, 1, 65535),
        password=read.text("CLUSTER_REDIS_PASSWORD", secret=True),
        visibility_timeout=read.integer("CLUSTER_VISIBILITY_TIMEOUT", DEFAULT_VISIBILITY_TIMEOUT, 60, 31536000),
        authority=_read_authority(read),
    )


def _read_database(read: _Reader) -> DatabaseConfig:
    return DatabaseConfig(
        host=read.text("SQL_HOST"),
        port=read.integer("SQL_PORT", 5432, 1, 65535),
        name=read.text("POSTGRES_DB"),
        user=read.text("POSTGRES_USER"),
        password=read.text("POSTGRES_PASSWORD", secret=True),
        authority=_read_authority(read),
    )


def _read_authority(read: _Reader) -> str:
    """Return who signs the certificate of database and broker; empty where connections to them are in clear."""
    return read.directory("CLUSTER_SERVICES_CA") if read.environment.get("CLUSTER_SERVICES_CA") else ""


def _read_lease_seconds(read: _Reader) -> int:
    return read.integer("CLUSTER_LEASE_SECONDS", DEFAULT_LEASE_SECONDS, 5, 86400)


def load_broker(environment: Mapping[str, str]) -> BrokerConfig:
    """Return the part of the configuration that names Redis.

    :raises ConfigError: naming every missing or wrong variable.
    """
    read = _Reader(environment)
    return read.checked(_read_broker(read))


def load_services(environment: Mapping[str, str]) -> ServicesConfig:
    """Return where the services are that every process needs.

    :raises ConfigError: naming every missing or wrong variable.
    """
    read = _Reader(environment)
    return read.checked(ServicesConfig(_read_broker(read), _read_database(read), read.directory("CLUSTER_MEDIA_ROOT")))


def load_reaper(environment: Mapping[str, str]) -> ReaperConfig:
    """Return what the reaper has to know.

    :raises ConfigError: naming every missing or wrong variable.
    """
    read = _Reader(environment)
    return read.checked(
        ReaperConfig(
            broker=_read_broker(read),
            lease_seconds=_read_lease_seconds(read),
            orphan_seconds=read.integer("CLUSTER_ORPHAN_SECONDS", DEFAULT_ORPHAN_SECONDS, 5, 86400),
            database=_read_database(read),
        )
    )


def load_config(environment: Mapping[str, str]) -> ClusterConfig:
    """Return the whole configuration.

    :raises ConfigError: naming every missing or wrong variable at once. No message holds the value of a secret.
    """
    read = _Reader(environment)
    # Of a worker's own unit, not of the environment file of all: it helps out in these queues. -1: it does not.
    overflow_queues = read.queues("CLUSTER_OVERFLOW_QUEUES")
    overflow_seconds = read.integer("CLUSTER_OVERFLOW_SECONDS", DEFAULT_OVERFLOW_SECONDS, -1, 86400)
    config = ClusterConfig(
        secret_key=read.text("SECRET_KEY", secret=True),
        allowed_hosts=read.words("CLUSTER_ALLOWED_HOSTS"),
        csrf_trusted_origins=read.words("CSRF_TRUSTED_ORIGINS"),
        media_root=read.directory("CLUSTER_MEDIA_ROOT"),
        static_root=read.directory("CLUSTER_STATIC_ROOT"),
        broker=_read_broker(read),
        # Upstream's default database password is 'postgres': an unset variable would be a guess instead of an error.
        database_options=_read_database(read).options(),
        task_max_starts=read.integer("CLUSTER_TASK_MAX_STARTS", DEFAULT_TASK_MAX_STARTS, 1, 100),
        lease_seconds=_read_lease_seconds(read),
        overflow_queues=overflow_queues if overflow_seconds >= 0 else (),
        overflow_seconds=overflow_seconds,
        # 0: no bound.
        user_trainings=read.integer("CLUSTER_USER_TRAININGS", 0, 0, 1000),
        user_trainings_running=read.integer("CLUSTER_USER_TRAININGS_RUNNING", 0, 0, 1000),
        import_requests_per_host=read.integer("CLUSTER_IMPORT_REQUESTS_PER_HOST", 2, 0, 100),
        import_patience_seconds=read.integer("CLUSTER_IMPORT_PATIENCE_SECONDS", 600, 0, 86400),
        fetch_timeout_seconds=read.integer("CLUSTER_FETCH_TIMEOUT_SECONDS", 60, 1, 90),
        import_internal_networks=read.networks("CLUSTER_IMPORT_INTERNAL_NETWORKS"),
        import_refused_networks=read.networks("CLUSTER_IMPORT_REFUSED_NETWORKS"),
        site=read.text("DOMAIN", "localhost"),
        upload_max_mib=read.integer("CLUSTER_UPLOAD_MAX_MIB", 150, 1, 102400),
        archive_max_mib=read.integer("CLUSTER_ARCHIVE_MAX_MIB", 2048, 1, 1048576),
        archive_max_files=read.integer("CLUSTER_ARCHIVE_MAX_FILES", 10000, 1, 1000000),
        training_batch_size=read.integer("CLUSTER_TRAINING_BATCH_SIZE", 1, 1, 1024),
        training_precision=read.choice("CLUSTER_TRAINING_PRECISION", "32", PRECISIONS),
        gpu_cost=read.parsed("CLUSTER_GPU_COST", 1.0, _cost, "a number that is not negative"),
        cookie_secure=read.boolean("CLUSTER_COOKIE_SECURE", default=True),
        login_failures=read.integer("CLUSTER_LOGIN_FAILURES", DEFAULT_LOGIN_FAILURES, 0, 1000),
        login_lock_seconds=read.integer("CLUSTER_LOGIN_LOCK_SECONDS", DEFAULT_LOGIN_LOCK_SECONDS, 10, 86400),
        admin_session_hours=read.integer("CLUSTER_ADMIN_SESSION_HOURS", DEFAULT_ADMIN_SESSION_HOURS, 1, 336),
        email_host=read.text("EMAIL_HOST", "localhost"),
        email_port=read.integer("EMAIL_PORT", 25, 1, 65535),
        email_user=read.text("CLUSTER_EMAIL_USER", ""),
        email_password=read.text("CLUSTER_EMAIL_PASSWORD", "", secret=True),
        email_security=read.choice("CLUSTER_EMAIL_SECURITY", "none", EMAIL_SECURITY),
        iiif_quality=read.text("CLUSTER_IIIF_QUALITY", "full"),
        log_level=read.choice("CLUSTER_LOG_LEVEL", "INFO", LOG_LEVELS),
        gate_views=read.site_rules("CLUSTER_GATE_VIEWS"),
    )
    if config.secret_key in KNOWN_SECRET_KEYS:
        read.problems.append("SECRET_KEY is a published example value")
    if "*" in config.allowed_hosts:
        read.problems.append("CLUSTER_ALLOWED_HOSTS is '*', expected host names: WebSocket origins are checked with it")
    for origin in config.csrf_trusted_origins:
        if not re.fullmatch(r"https?://[^/]+", origin):
            read.problems.append(
                f"CSRF_TRUSTED_ORIGINS has '{origin}', expected scheme and host, as https://example.org"
            )
    if environment.get("DEBUG"):
        read.problems.append("DEBUG is set, expected unset: any text, even False, turns debugging on")
    device = environment.get("KRAKEN_TRAINING_DEVICE", "cpu")
    if not re.fullmatch(r"cpu|mps|cuda:\d+", device):
        read.problems.append(f"KRAKEN_TRAINING_DEVICE is '{device}', expected cpu, mps or cuda:0 (with a number)")
    if config.email_password and not config.email_user:
        read.problems.append("CLUSTER_EMAIL_PASSWORD is set without CLUSTER_EMAIL_USER")
    return read.checked(config)
