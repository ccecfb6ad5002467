"""Settings of the stand-in: the names, environment variables and traps of eScriptorium 05d3a0d4's settings.

The traps are here on purpose, so that a deployment that falls into one fails with the stand-in too: any text in DEBUG
turns it on, GPU_COST stays a text, CELERY_ACKS_LATE has no effect, every process opens logs/error.log, all hosts are
allowed, Redis has no password, and the first migration makes the account admin with the password admin.
"""

import importlib.metadata
import os
import sys

from kombu import Queue

BASE_DIR = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROJECT_ROOT = os.path.abspath(os.path.dirname(__file__))
APPS_DIR = os.path.join(BASE_DIR, "apps")
sys.path.append(APPS_DIR)

ADMINS = [(os.getenv("DJANGO_SU_NAME", "admin"), os.getenv("DJANGO_SU_EMAIL", "admin@example.com"))]

SITE_ID = 1
SECRET_KEY = os.getenv("SECRET_KEY", "a-beautiful-snowflake")
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
USE_X_FORWARDED_HOST = os.getenv("USE_X_FORWARDED_HOST", False) == "True"
DEBUG = os.getenv("DEBUG", False)
ALLOWED_HOSTS = ["*"]

ASGI_APPLICATION = "escriptorium.asgi.application"
WSGI_APPLICATION = "escriptorium.wsgi.application"
ROOT_URLCONF = "escriptorium.urls"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.sites",
    "django.contrib.postgres",
    "channels",
    "rest_framework",
    "rest_framework.authtoken",
    "users",
    "core",
    "imports",
    "reporting",
    "django_prometheus",
]

MIDDLEWARE = [
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_prometheus.middleware.PrometheusAfterMiddleware",
]
PROMETHEUS_EXPORT_MIGRATIONS = False

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [os.path.join(PROJECT_ROOT, "templates")],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.debug",
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DEFAULT_AUTO_FIELD = "django.db.models.AutoField"

DATABASES = {
    "default": {
        "ENGINE": os.getenv("SQL_ENGINE", "django.db.backends.postgresql"),
        "NAME": os.getenv("POSTGRES_DB", "escriptorium"),
        "USER": os.getenv("POSTGRES_USER", "postgres"),
        "PASSWORD": os.getenv("POSTGRES_PASSWORD", "postgres"),
        "HOST": os.getenv("SQL_HOST", "localhost"),
        "PORT": os.getenv("SQL_PORT", "5432"),
        "OPTIONS": {"options": "-c jit=off"},
    }
}

AUTH_USER_MODEL = "users.User"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "projects-list"
LOGOUT_REDIRECT_URL = "/"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = True
USE_TZ = True

EMAIL_HOST = os.getenv("EMAIL_HOST", "localhost")
EMAIL_PORT = os.getenv("EMAIL_PORT", 25)
DEFAULT_FROM_EMAIL = os.getenv("DJANGO_FROM_EMAIL", "noreply@example.com")

REDIS_HOST = os.getenv("REDIS_HOST", "localhost")
REDIS_PORT = int(os.getenv("REDIS_PORT", 6379))
CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": "redis://%s:%d/1" % (REDIS_HOST, REDIS_PORT),
        "OPTIONS": {"CLIENT_CLASS": "django_redis.client.DefaultClient"},
        "KEY_PREFIX": "cache",
    }
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [(REDIS_HOST, REDIS_PORT)]},
    },
}

CELERY_BROKER_URL = "redis://%s:%d/0" % (REDIS_HOST, REDIS_PORT)
CELERY_RESULT_BACKEND = "redis://%s:%d" % (REDIS_HOST, REDIS_PORT)
CELERY_ACCEPT_CONTENT = ["application/json"]
CELERY_TASK_SERIALIZER = "json"
CELERY_RESULT_SERIALIZER = "json"
CELERY_TASK_TRACK_STARTED = True
CELERYD_STATE_DB = "celery_state.db"
CELERY_ACKS_LATE = True
CELERY_TASK_QUEUES = tuple(Queue(name, routing_key=name) for name in ("default", "live", "low-priority", "gpu", "jvm"))
CELERY_TASK_DEFAULT_QUEUE = "default"
CELERY_TASK_ROUTES = {
    "core.tasks.recalculate_masks": {"queue": "live"},
    "core.tasks.generate_part_thumbnails": {"queue": "low-priority"},
    "core.tasks.train": {"queue": "gpu"},
    "core.tasks.segtrain": {"queue": "gpu"},
    "core.tasks.align": {"queue": "jvm"},
    "imports.tasks.*": {"queue": "low-priority"},
    "users.tasks.async_email": {"queue": "low-priority"},
}
TASK_RECOVER_DELAY = 60 * 60 * 24
REPORTING_TASKS_BLACKLIST = [
    "users.tasks.async_email",
    "core.tasks.convert",
    "core.tasks.lossless_compression",
    "core.tasks.generate_part_thumbnails",
]

DATA_UPLOAD_MAX_MEMORY_SIZE = 150 * 1024 * 1024
DATA_UPLOAD_MAX_NUMBER_FIELDS = 10000
FILE_UPLOAD_PERMISSIONS = 0o644
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.TemporaryFileUploadHandler"]

FRONTEND_DIR = os.getenv("FRONTEND_DIR", os.path.join(BASE_DIR, "..", "front", "dist"))
STATIC_URL = "/static/"
STATIC_ROOT = os.path.join(BASE_DIR, "static")
STATICFILES_DIRS = [os.path.join(PROJECT_ROOT, "static"), FRONTEND_DIR]
MEDIA_URL = "/media/"
MEDIA_ROOT = os.path.join(BASE_DIR, "media")

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {
        "file": {
            "level": "ERROR",
            "class": "logging.handlers.RotatingFileHandler",
            "filename": os.path.join(PROJECT_ROOT, "logs", "error.log"),
        },
        "console_debug": {"level": "DEBUG", "class": "logging.StreamHandler"},
        "mail_admins": {"level": "ERROR", "class": "django.utils.log.AdminEmailHandler"},
    },
    "loggers": {
        "": {"handlers": ["console_debug"], "level": "DEBUG"},
        "core": {"handlers": ["file", "mail_admins"]},
        "django": {"handlers": ["file", "mail_admins"]},
    },
}

CSRF_TRUSTED_ORIGINS = os.getenv("CSRF_TRUSTED_ORIGINS", "http://localhost:8000").split(",")

REST_FRAMEWORK = {
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "rest_framework.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PAGINATION_CLASS": "core.pagination.CustomPagination",
    "PAGE_SIZE": 10,
}

THUMBNAIL_ENABLE = True
VERSION_DATE = os.getenv("VERSION_DATE", "<development>")
KRAKEN_VERSION = "Kraken version " + importlib.metadata.version("kraken")
KRAKEN_TRAINING_DEVICE = os.getenv("KRAKEN_TRAINING_DEVICE", "cpu")
KRAKEN_TRAINING_LOAD_THREADS = int(os.getenv("KRAKEN_TRAINING_LOAD_THREADS", 0))
MODELS_VERSION_RETENTION = int(os.getenv("MODELS_VERSION_RETENTION", 30))
IIIF_IMPORT_QUALITY = "full"
IMPORT_ALLOWED_DOMAINS = os.getenv("IMPORT_ALLOWED_DOMAINS", "*").split(",")
GPU_COST = os.getenv("GPU_COST", 1.0)
DISABLE_QUOTAS = os.getenv("DISABLE_QUOTAS", "True").lower() not in ("false", "0")
QUOTA_DISK_STORAGE = int(os.environ["QUOTA_DISK_STORAGE"]) if os.environ.get("QUOTA_DISK_STORAGE") else None
TEXT_ALIGNMENT_ENABLED = os.getenv("TEXT_ALIGNMENT", "False").lower() not in ("false", "0")

# --- What only the stand-in has: how long its simulated work takes, in seconds, and the number of epochs. -----------

STAND_IN_SECONDS_PER_EPOCH = float(os.getenv("STAND_IN_SECONDS_PER_EPOCH", "0.5"))
STAND_IN_START_SECONDS = float(os.getenv("STAND_IN_START_SECONDS", "0"))
STAND_IN_EPOCHS = int(os.getenv("STAND_IN_EPOCHS", "3"))
# Where the simulated GPU driver (molecule/simulated_driver) looks for the users of each device.
STAND_IN_DEVICES = os.getenv("STAND_IN_DEVICES", "/run/simulated-gpu/use")
STAND_IN_WORK_SECONDS = float(os.getenv("STAND_IN_WORK_SECONDS", "0.2"))
