"""The settings on top of upstream's, the addresses, and what each process is told: no Django, no Celery."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from module_utils.platform_certificates import renew

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROUTES = {"core.tasks.train": {"queue": "gpu"}, "imports.*": {"queue": "low-priority"}}
UPSTREAM: dict[str, Any] = {
    "INSTALLED_APPS": ["core"],
    "MIDDLEWARE": ["sessions"],
    "DATABASES": {"default": {"ENGINE": "upstream", "OPTIONS": {"options": "-c jit=off"}}, "other": {}},
    "CACHES": {"default": {"BACKEND": "redis", "LOCATION": "redis://localhost"}},
    "REPORTING_TASKS_BLACKLIST": ["core.tasks.hidden"],
    "CELERY_TASK_ROUTES": ROUTES,
    "DEFAULT_FROM_EMAIL": "htr@example.org",
    "IMPORT_ALLOWED_DOMAINS": ["iiif.example.org"],
    "REST_FRAMEWORK": {
        "PAGE_SIZE": 10,
        "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.TokenAuthentication", "sessions"],
    },
    "DEBUG": True,
    "ALLOWED_HOSTS": ["*"],
    "LANGUAGE_CODE": "fr",
    "lower": "no setting",
}


@dataclass(frozen=True)
class Queue:
    """kombu's, as far as it is used."""

    name: str
    routing_key: str


class CachedProperty:
    """Django 5's, as far as it is made."""

    def __init__(self, func: Any) -> None:
        self.func = func


@pytest.fixture
def settings(
    load: Callable[[str], Any], environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Load the settings with some variables more than the least."""

    def loaded(**variables: str) -> Any:
        for name, value in (environment | variables).items():
            monkeypatch.setenv(name, value)
        vars(load("escriptorium.settings")).update(UPSTREAM, CELERY_TASK_QUEUES=(Queue("gpu", "gpu"),))
        load("kombu").Queue = Queue
        load("django.utils.functional").cached_property = CachedProperty
        return load("escriptorium_cluster.settings")

    return loaded


def test_upstream_stays_where_nothing_is_said(settings: Callable[..., Any]) -> None:
    found = settings()
    assert (found.LANGUAGE_CODE, found.SERVER_EMAIL) == ("fr", "htr@example.org")
    assert not hasattr(found, "lower")
    assert found.INSTALLED_APPS == ["core", "escriptorium_cluster"]
    assert found.DATABASES["other"] == {}
    assert found.DATABASES["default"]["OPTIONS"]["options"] == "-c jit=off"


def test_a_killed_worker_loses_no_job_and_none_runs_twice(settings: Callable[..., Any]) -> None:
    found = settings(CLUSTER_VISIBILITY_TIMEOUT="86400")
    assert (found.CELERY_TASK_ACKS_LATE, found.CELERY_TASK_REJECT_ON_WORKER_LOST) == (True, True)
    assert found.CELERY_BROKER_TRANSPORT_OPTIONS == {"visibility_timeout": 86400}
    assert found.CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS == {"visibility_timeout": 86400}
    assert found.CELERY_VISIBILITY_TIMEOUT == 86400
    assert found.CELERY_WORKER_PREFETCH_MULTIPLIER == 1, "a job waits behind another though a worker is idle"
    assert found.CELERY_WORKER_CONSUMER == "escriptorium_cluster.consumer:Consumer"
    assert found.CELERY_WORKER_POOL == "escriptorium_cluster.pool:TaskPool"


def test_every_job_is_counted_and_guarded(settings: Callable[..., Any], load: Callable[[str], Any]) -> None:
    found = settings(CLUSTER_TASK_MAX_STARTS="5", CLUSTER_LEASE_SECONDS="60")
    guard = load("escriptorium_cluster.guard")
    assert found.CELERY_TASK_ANNOTATIONS["*"] == {
        "before_start": guard.before_start,
        "after_return": guard.after_return,
        "Request": "escriptorium_cluster.failed_request:Request",
    }
    assert (found.CLUSTER_TASK_MAX_STARTS, found.CLUSTER_LEASE_SECONDS) == (5, 60)
    assert found.REPORTING_TASKS_BLACKLIST == ["core.tasks.hidden", "escriptorium_cluster.probe"]


def test_queues_and_routes(settings: Callable[..., Any]) -> None:
    found = settings()
    assert [(queue.name, queue.routing_key) for queue in found.CELERY_TASK_QUEUES] == [
        (name, name) for name in ("gpu", "imports", "gpu-large", "trainings-held")
    ]
    # Upstream charges GPU time by the route, so that a large training keeps its own and gets its queue by the task.
    assert found.CELERY_TASK_ANNOTATIONS["core.tasks.segtrain"] == {"queue": "gpu-large"}
    assert list(found.CELERY_TASK_ROUTES) == ["imports.tasks.document_import", *ROUTES], "the first one that fits wins"
    assert found.CELERY_TASK_ROUTES["imports.tasks.document_import"] == {"queue": "imports"}


def test_redis_has_its_password_everywhere(settings: Callable[..., Any]) -> None:
    found = settings(CLUSTER_REDIS_PASSWORD="a/b")
    assert found.CELERY_BROKER_URL == found.CELERY_RESULT_BACKEND == "redis://:a%2Fb@10.10.0.1:6379/0"
    assert found.CACHES["default"] == {"BACKEND": "redis", "LOCATION": "redis://:a%2Fb@10.10.0.1:6379/1"}
    assert found.CLUSTER_FETCHING["redis_url"] == "redis://:a%2Fb@10.10.0.1:6379/1"
    (host,) = found.CHANNEL_LAYERS["default"]["CONFIG"]["hosts"]
    assert host == {"address": ("10.10.0.1", 6379), "db": 0, "password": "a/b"}


def test_all_that_speak_with_database_and_broker_verify_them(settings: Callable[..., Any], tmp_path: Path) -> None:
    renew(tmp_path, ["10.10.0.1"], datetime.now(UTC), write=True)
    found = settings(CLUSTER_SERVICES_CA=str(tmp_path / "ca.crt"))
    urls = [found.CELERY_BROKER_URL, found.CELERY_RESULT_BACKEND, found.CACHES["default"]["LOCATION"]]
    for url in (*urls, found.CLUSTER_FETCHING["redis_url"]):
        assert url.startswith("rediss://")
        assert "ssl_cert_reqs=required" in url
    (host,) = found.CHANNEL_LAYERS["default"]["CONFIG"]["hosts"]
    assert (host["ssl"].verify_mode, host["ssl"].check_hostname) == (ssl.CERT_REQUIRED, True)
    options = found.DATABASES["default"]["OPTIONS"]
    assert (options["sslmode"], options["sslrootcert"]) == ("verify-full", str(tmp_path / "ca.crt"))


def test_a_lost_database_is_noticed(settings: Callable[..., Any]) -> None:
    default = settings().DATABASES["default"]
    options = default["OPTIONS"]
    assert default["ENGINE"] == "escriptorium_cluster.database"
    assert options["connect_timeout"] == 10
    silence = options["keepalives_idle"] + options["keepalives_interval"] * options["keepalives_count"]
    assert silence == 900, "as long as a lease"


def test_the_web_side_is_closed(settings: Callable[..., Any]) -> None:
    found = settings(CLUSTER_UPLOAD_MAX_MIB="2")
    assert found.DEBUG is False
    assert found.ALLOWED_HOSTS == ["htr.example.org", "10.10.0.1"]
    assert found.CSRF_TRUSTED_ORIGINS == ["https://htr.example.org"]
    assert (found.SESSION_COOKIE_SECURE, found.CSRF_COOKIE_SECURE, found.SESSION_COOKIE_HTTPONLY) == (True, True, True)
    assert found.DATA_UPLOAD_MAX_MEMORY_SIZE == 2 << 20
    assert found.ROOT_URLCONF == "escriptorium_cluster.urls"
    assert "mail_admins" not in str(found.LOGGING)


def test_a_key_is_looked_up_once_and_sessions_stay_upstreams(settings: Callable[..., Any]) -> None:
    found = settings().REST_FRAMEWORK
    assert found["DEFAULT_AUTHENTICATION_CLASSES"] == ["escriptorium_cluster.gate.key_once.KeyOnce", "sessions"]
    assert found["PAGE_SIZE"] == 10


def test_uploads_are_looked_at_before_upstream_opens_them(settings: Callable[..., Any]) -> None:
    found = settings(CLUSTER_ARCHIVE_MAX_MIB="7", CLUSTER_ARCHIVE_MAX_FILES="8")
    assert found.FILE_UPLOAD_HANDLERS == ["escriptorium_cluster.uploads.CheckedUploadHandler"]
    assert (found.CLUSTER_ARCHIVE_MAX_MIB, found.CLUSTER_ARCHIVE_MAX_FILES) == (7, 8)


def test_requests_go_where_the_site_says(settings: Callable[..., Any]) -> None:
    variables = {"IMPORT_INTERNAL_NETWORKS": "10.20.30.40/32, fd00::/64", "IMPORT_REFUSED_NETWORKS": "10.10.0.0/24"}
    found = settings(CLUSTER_UPLOAD_MAX_MIB="2", **{f"CLUSTER_{name}": text for name, text in variables.items()})
    wanted = {
        "internal": ("10.20.30.40/32", "fd00::/64"),
        "refused": ("10.10.0.0/24",),
        "domains": ["iiif.example.org"],
        "largest": 2 << 20,
    }
    assert {name: found.CLUSTER_FETCHING[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("bound", "middleware"), [("0", []), ("3", ["escriptorium_cluster.requests_bound.TrainingsBound"])]
)
def test_trainings_are_bound_where_a_bound_is_set(
    settings: Callable[..., Any], bound: str, middleware: list[str]
) -> None:
    found = settings(CLUSTER_USER_TRAININGS=bound)
    reports = "escriptorium_cluster.requests_bound.ReportsAreRead"
    gate, logins = "escriptorium_cluster.gate.middleware.Gate", "escriptorium_cluster.logins.Logins"
    assert ["sessions", logins, gate, reports, *middleware] == found.MIDDLEWARE, (
        "the gate knows the user, and asks first"
    )
    assert int(bound) == found.CLUSTER_USER_TRAININGS


def test_wrong_passwords_are_counted_before_anybody_looks_at_them(settings: Callable[..., Any]) -> None:
    found = settings(CLUSTER_LOGIN_FAILURES="3", CLUSTER_LOGIN_LOCK_SECONDS="60", CLUSTER_ADMIN_SESSION_HOURS="8")
    assert found.AUTHENTICATION_BACKENDS == [
        "escriptorium_cluster.logins.GuessBound",
        "django.contrib.auth.backends.ModelBackend",
    ]
    assert (found.CLUSTER_LOGIN_FAILURES, found.CLUSTER_LOGIN_LOCK_SECONDS) == (3, 60)
    assert found.CLUSTER_ADMIN_SESSION_HOURS == 8


def test_short_and_common_passwords_are_refused(settings: Callable[..., Any]) -> None:
    found = {rule["NAME"].rpartition(".")[2]: rule.get("OPTIONS") for rule in settings().AUTH_PASSWORD_VALIDATORS}
    assert found == {
        "UserAttributeSimilarityValidator": None,
        "MinimumLengthValidator": {"min_length": 12},
        "CommonPasswordValidator": None,
        "NumericPasswordValidator": None,
    }


def test_upstream_runs_on_a_newer_django(settings: Callable[..., Any]) -> None:
    settings()
    assert CachedProperty(len, print).func is len  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("security", "tls", "ssl"), [("none", False, False), ("starttls", True, False), ("tls", False, True)]
)
def test_mail(settings: Callable[..., Any], security: str, tls: bool, ssl: bool) -> None:
    found = settings(CLUSTER_EMAIL_SECURITY=security)
    assert (tls, ssl) == (found.EMAIL_USE_TLS, found.EMAIL_USE_SSL)


def test_own_addresses_come_before_upstreams(load: Callable[[str], Any]) -> None:
    load("django.urls").path = lambda route, view, name: (route, view, name)
    load("escriptorium.urls").urlpatterns = ["everything else"]
    load("django.contrib.auth.views").LogoutView = type("LogoutView", (), {"as_view": classmethod(lambda kind: kind)})
    health, media = load("escriptorium_cluster.health").health, load("escriptorium_cluster.media").media
    out = load("escriptorium_cluster.logins").LogOut
    urls = load("escriptorium_cluster.urls")
    own = [("health/", health, "cluster-health"), ("_media", media, "cluster-media"), ("logout/", out, "logout")]
    assert urls.urlpatterns == [*own, "everything else"]
    module, _, name = urls.handler400.rpartition(".")
    assert callable(getattr(load(module), name)), "what says why an upload is refused"


@pytest.fixture
def installed(load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Have a process begin; answer what was installed in it, by module, with its arguments."""

    def ready(*overflow_queues: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        load("celery").current_app = "app"
        load("django.conf").settings = type(
            "Settings",
            (),
            {
                "CLUSTER_OVERFLOW_QUEUES": overflow_queues,
                "CLUSTER_OVERFLOW_SECONDS": 10,
                "CLUSTER_USER_TRAININGS_RUNNING": 2,
                "CLUSTER_FETCHING": {"places": 2},
            },
        )
        for name in ("again", "api_keys", "fetching", "logins", "overflow", "training_slots", "watchdog"):
            monkeypatch.setattr(
                load(f"escriptorium_cluster.{name}"),
                "install",
                lambda *arguments, name=name, **options: found.update({name: (*arguments, *options.items())}),
            )
        load("escriptorium_cluster.apps").ClusterConfig().ready()
        return found

    return ready


def test_each_process_gets_what_it_needs(installed: Callable[..., dict[str, Any]]) -> None:
    found = installed()
    assert found.pop("watchdog")[0] == "app"
    assert found.pop("logins") == (), "no wrong password is counted"
    assert found == {"again": ("app",), "training_slots": ("app", 2), "fetching": (("places", 2),), "api_keys": ()}
    assert list(found)[:2] == ["training_slots", "again"], "a cancelled job would take a slot before it is looked at"


def test_a_worker_that_is_told_so_helps_out(installed: Callable[..., dict[str, Any]]) -> None:
    assert installed("gpu")["overflow"] == ("app", ("gpu",), 10)
