"""Django settings of the platform: upstream's settings, then what a cluster has to have differently.

Upstream's source is never edited. Each override says why it is needed; facts were checked against eScriptorium
05d3a0d4 with celery 5.3.6, kombu 5.3.7 and channels-redis 3.4.1.
"""

import os
from typing import Any

from escriptorium import settings as upstream
from kombu import Queue

from escriptorium_cluster import upstream_fixes
from escriptorium_cluster.config import HELD_QUEUE, LARGE_QUEUE, PASSWORD_MIN_LENGTH, load_config
from escriptorium_cluster.gate.rules import Rule
from escriptorium_cluster.guard import after_return, before_start
from escriptorium_cluster.probe import PROBE_TASK

# The same as a star import, but explicit about what a setting is.
globals().update({name: value for name, value in vars(upstream).items() if name.isupper()})

_config = load_config(os.environ)

upstream_fixes.install()

# --- The web side ------------------------------------------------------------------------------------------------

SECRET_KEY = _config.secret_key
DEBUG = False
# Upstream has '*'; the origin check of WebSockets goes by this list too.
ALLOWED_HOSTS = list(_config.allowed_hosts)
CSRF_TRUSTED_ORIGINS = list(_config.csrf_trusted_origins)
ROOT_URLCONF = "escriptorium_cluster.urls"
INSTALLED_APPS: list[str] = [*upstream.INSTALLED_APPS, "escriptorium_cluster"]

SESSION_COOKIE_SECURE = _config.cookie_secure
CSRF_COOKIE_SECURE = _config.cookie_secure
SESSION_COOKIE_HTTPONLY = True
# nginx redirects to HTTPS; a redirect here as well would answer the local health probe with one.
SECURE_SSL_REDIRECT = False

# --- Logins: logins.py ---------------------------------------------------------------------------------------------

# Who may say that somebody is who they claim to be, asked in this order. The login of an institution is one more here.
LOGIN_BACKENDS: tuple[str, ...] = ("django.contrib.auth.backends.ModelBackend",)
AUTHENTICATION_BACKENDS: list[str] = ["escriptorium_cluster.logins.GuessBound", *LOGIN_BACKENDS]
# Upstream's, but for the length: it leaves Django's 8. The common ones are a list of 20,000 that comes with Django.
AUTH_PASSWORD_VALIDATORS: list[dict[str, Any]] = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": PASSWORD_MIN_LENGTH},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
# Wrong passwords for one account from one network, and in how many seconds. 0: any number.
CLUSTER_LOGIN_FAILURES = _config.login_failures
CLUSTER_LOGIN_LOCK_SECONDS = _config.login_lock_seconds
CLUSTER_ADMIN_SESSION_HOURS = _config.admin_session_hours

# --- Uploads -----------------------------------------------------------------------------------------------------

DATA_UPLOAD_MAX_MEMORY_SIZE = _config.upload_max_mib * 1024 * 1024
# Upstream's handler (a file on the disk for each upload), and a look at archives and models before its code opens them.
FILE_UPLOAD_HANDLERS = ["escriptorium_cluster.uploads.CheckedUploadHandler"]
CLUSTER_ARCHIVE_MAX_MIB = _config.archive_max_mib
CLUSTER_ARCHIVE_MAX_FILES = _config.archive_max_files

# --- Files -------------------------------------------------------------------------------------------------------

MEDIA_ROOT = _config.media_root
STATIC_ROOT = _config.static_root

# --- Database ----------------------------------------------------------------------------------------------------

# Upstream's OPTIONS (jit off) stay. A host that is gone must not hold a request for the kernel's two minutes, and not a
# job for two hours; a job that is only cut off goes on (a lease is 15 minutes as well).
DATABASES: dict[str, dict[str, Any]] = {
    **upstream.DATABASES,
    "default": {
        **upstream.DATABASES["default"],
        "ENGINE": "escriptorium_cluster.database",
        "OPTIONS": {
            **upstream.DATABASES["default"].get("OPTIONS", {}),
            "connect_timeout": 10,
            "keepalives_idle": 300,
            "keepalives_interval": 60,
            "keepalives_count": 10,
            **_config.database_options,
        },
    },
}

# --- Redis: broker, results, cache and channels, all with the password --------------------------------------------

CELERY_BROKER_URL = _config.broker.url(0)
CELERY_RESULT_BACKEND = _config.broker.url(0)
CACHES: dict[str, dict[str, Any]] = {
    **upstream.CACHES,
    "default": {**upstream.CACHES["default"], "LOCATION": _config.broker.url(1)},
}
_tls = _config.broker.tls()
CHANNEL_LAYERS: dict[str, dict[str, Any]] = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        # Not a URL: the client below channels-redis 3 does not decode a quoted password.
        "CONFIG": {
            "hosts": [
                {
                    "address": (_config.broker.host, _config.broker.port),
                    "db": 0,
                    "password": _config.broker.password,
                    **({"ssl": _tls} if _tls else {}),
                }
            ]
        },
    }
}

# --- Celery ------------------------------------------------------------------------------------------------------

# Upstream's CELERY_ACKS_LATE has no effect (the name should be CELERY_TASK_ACKS_LATE), so that a killed worker loses
# its job. Late acknowledgement only works together with a visibility timeout above the longest training: with the
# default of one hour a running training is started a second time.
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_BROKER_TRANSPORT_OPTIONS = _config.broker.transport_options()
CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS = _config.broker.transport_options()
CELERY_VISIBILITY_TIMEOUT = _config.broker.visibility_timeout
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_WORKER_CONSUMER = "escriptorium_cluster.consumer:Consumer"
CELERY_WORKER_POOL = "escriptorium_cluster.pool:TaskPool"
# Django's LOGGING below serves the workers too; Celery's own format would repeat journald's time stamp.
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
# A job whose child is killed goes back to the queue: without a limit one that needs too much memory would do so for
# ever. The guard counts the starts of each job and gives up with a clear message.
# Trainings of segmenters go to a queue of their own, which only slices of a GPU that are big enough for them consume.
# Not by the routes below: upstream charges GPU time to the tasks whose route is exactly {"queue": "gpu"}. A task's own
# queue goes before its route.
CELERY_TASK_ANNOTATIONS: dict[str, dict[str, Any]] = {
    "*": {
        "before_start": before_start,
        "after_return": after_return,
        "Request": "escriptorium_cluster.failed_request:Request",
    },
    "core.tasks.segtrain": {"queue": LARGE_QUEUE},
}
# The cluster's own jobs belong to no user: upstream looks for no report of these.
REPORTING_TASKS_BLACKLIST: list[str] = [*upstream.REPORTING_TASKS_BLACKLIST, PROBE_TASK]
CLUSTER_TASK_MAX_STARTS = _config.task_max_starts
# Seconds of silence after which a worker counts as dead: see lease.py.
CLUSTER_LEASE_SECONDS = _config.lease_seconds
# Queues in which this process helps out, if it is a worker that has been told so: see overflow.py.
CLUSTER_OVERFLOW_QUEUES = _config.overflow_queues
CLUSTER_OVERFLOW_SECONDS = _config.overflow_seconds

# Imports fetch from other people's image servers. They get a queue of their own, so that one worker bounds how many
# run at once in the whole cluster; exports stay on low-priority (an exact name goes before a pattern in Celery).
CELERY_TASK_QUEUES: tuple[Queue, ...] = (
    *upstream.CELERY_TASK_QUEUES,
    *(Queue(name, routing_key=name) for name in ("imports", LARGE_QUEUE, HELD_QUEUE)),
)
CELERY_TASK_ROUTES: dict[str, dict[str, str]] = {
    "imports.tasks.document_import": {"queue": "imports"},
    **upstream.CELERY_TASK_ROUTES,
}
IIIF_IMPORT_QUALITY = _config.iiif_quality

# --- The gate: who may do what is asked -------------------------------------------------------------------------

# Views that a site adds, and what their keys name. The gate itself is always there.
CLUSTER_GATE_VIEWS: dict[str, Rule] = dict(_config.gate_views)
# It asks who sent a key before the view does: both get one answer.
_keys = {"rest_framework.authentication.TokenAuthentication": "escriptorium_cluster.gate.key_once.KeyOnce"}
REST_FRAMEWORK: dict[str, Any] = {
    **upstream.REST_FRAMEWORK,
    "DEFAULT_AUTHENTICATION_CLASSES": [
        _keys.get(name, name) for name in upstream.REST_FRAMEWORK["DEFAULT_AUTHENTICATION_CLASSES"]
    ],
}
ASGI_APPLICATION = "escriptorium_cluster.asgi.application"

# --- Fair use: requests_bound.py, training_slots.py, fetching.py --------------------------------------------------

# Trainings of one user, queued and running, and running. 0: no bound, and nothing of it is in the way.
CLUSTER_USER_TRAININGS = _config.user_trainings
CLUSTER_USER_TRAININGS_RUNNING = _config.user_trainings_running
MIDDLEWARE: list[str] = [
    *upstream.MIDDLEWARE,
    "escriptorium_cluster.logins.Logins",
    "escriptorium_cluster.gate.middleware.Gate",
    "escriptorium_cluster.requests_bound.ReportsAreRead",
    *(["escriptorium_cluster.requests_bound.TrainingsBound"] if _config.user_trainings else []),
]
CLUSTER_FETCHING: dict[str, Any] = {
    "places": _config.import_requests_per_host,
    "patience": _config.import_patience_seconds,
    "silence": _config.fetch_timeout_seconds,
    "agent": f"eScriptorium (+https://{_config.site})",
    "redis_url": _config.broker.url(1),
    # A file of an import may be as large as one that somebody uploads.
    "largest": _config.upload_max_mib * 1024 * 1024,
    "domains": upstream.IMPORT_ALLOWED_DOMAINS,
    "internal": _config.import_internal_networks,
    "refused": _config.import_refused_networks,
}

# --- Training ----------------------------------------------------------------------------------------------------

# Upstream's tasks read these two settings, but upstream's settings never read the environment variables.
KRAKEN_TRAINING_BATCH_SIZE = _config.training_batch_size
KRAKEN_TRAINING_PRECISION = _config.training_precision
# Upstream keeps the text of the environment variable, and multiplying with it raises TypeError.
GPU_COST = _config.gpu_cost

# --- Mail --------------------------------------------------------------------------------------------------------

EMAIL_HOST = _config.email_host
EMAIL_PORT = _config.email_port
EMAIL_HOST_USER = _config.email_user
EMAIL_HOST_PASSWORD = _config.email_password
EMAIL_USE_TLS = _config.email_security == "starttls"
EMAIL_USE_SSL = _config.email_security == "tls"
EMAIL_TIMEOUT = 30
SERVER_EMAIL: str = upstream.DEFAULT_FROM_EMAIL

# --- Logging -----------------------------------------------------------------------------------------------------

# Upstream opens escriptorium/logs/error.log in every process (a release is read-only here), logs everything at DEBUG
# and mails each error to the administrators. systemd takes stderr to the journal, which adds time and unit.
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"journal": {"format": "%(levelname)s %(name)s[%(process)d]: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "journal"}},
    "root": {"handlers": ["stderr"], "level": _config.log_level},
    "loggers": {
        # Django's own defaults add a mail handler for errors; an empty list leaves them to the root logger.
        "django": {"handlers": [], "level": "INFO", "propagate": True},
        "django.server": {"handlers": [], "level": "INFO", "propagate": True},
        "core": {"level": "INFO"},
        "kraken": {"level": "INFO"},
        # Warns at every start that Apple's libraries are not there.
        "coremltools": {"level": "ERROR"},
        **{
            name: {"level": "WARNING"}
            for name in (
                "PIL",
                "aioredis",
                "amqp",
                "asyncio",
                "channels_redis",
                "daphne",
                "django.db.backends",
                "django.template",
                "easy_thumbnails",
                "elasticsearch",
                "fsspec",
                "kombu",
                "lightning",
                "matplotlib",
                "numba",
                "pytorch_lightning",
                "pyvips",
                "shapely",
                "torch",
                "urllib3",
            )
        },
    },
}
