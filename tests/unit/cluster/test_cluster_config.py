"""The configuration: defaults, types, and one message that names all that is wrong."""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from escriptorium_cluster.config import BrokerConfig, ConfigError, load_broker, load_config, load_services, redis_url
from hypothesis import given
from hypothesis import strategies as st


def test_defaults(environment: dict[str, str]) -> None:
    config = load_config(environment)
    assert config.allowed_hosts == ("htr.example.org", "10.10.0.1")
    assert config.broker == BrokerConfig("10.10.0.1", 6379, "r@d/i:s#?%41 x", 604800)
    assert (config.task_max_starts, config.upload_max_mib, config.training_batch_size) == (3, 150, 1)
    assert (config.training_precision, config.gpu_cost, config.log_level) == ("32", 1.0, "INFO")
    assert (config.cookie_secure, config.email_security) == (True, "none")
    assert (config.user_trainings, config.user_trainings_running) == (0, 0)
    assert (config.import_requests_per_host, config.import_patience_seconds) == (2, 600)
    assert (config.login_failures, config.login_lock_seconds, config.admin_session_hours) == (10, 900, 12)


def test_given_values_get_their_types(environment: dict[str, str]) -> None:
    config = load_config(
        environment
        | {
            "REDIS_PORT": "6380",
            "CLUSTER_VISIBILITY_TIMEOUT": "3600",
            "CLUSTER_GPU_COST": "2.5",
            "CLUSTER_COOKIE_SECURE": "False",
            "CLUSTER_TRAINING_BATCH_SIZE": "8",
            "CLUSTER_TRAINING_PRECISION": "bf16-mixed",
            "EMAIL_PORT": "587",
            "CLUSTER_EMAIL_SECURITY": "starttls",
            "KRAKEN_TRAINING_DEVICE": "cuda:1",
        }
    )
    assert config.broker.port == 6380
    assert config.broker.transport_options() == {"visibility_timeout": 3600}
    assert (config.gpu_cost, config.cookie_secure, config.training_batch_size) == (2.5, False, 8)
    assert (config.training_precision, config.email_port, config.email_security) == ("bf16-mixed", 587, "starttls")


def test_every_missing_variable_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({})
    assert sorted(problem.split()[0] for problem in caught.value.problems) == [
        "CLUSTER_ALLOWED_HOSTS",
        "CLUSTER_MEDIA_ROOT",
        "CLUSTER_REDIS_PASSWORD",
        "CLUSTER_STATIC_ROOT",
        "CSRF_TRUSTED_ORIGINS",
        "POSTGRES_DB",
        "POSTGRES_PASSWORD",
        "POSTGRES_USER",
        "REDIS_HOST",
        "SECRET_KEY",
        "SQL_HOST",
    ]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("REDIS_PORT", "70000", "a whole number from 1 to 65535"),
        ("REDIS_PORT", "redis", "a whole number from 1 to 65535"),
        ("CLUSTER_VISIBILITY_TIMEOUT", "5", "a whole number from 60"),
        ("CLUSTER_GPU_COST", "nan", "a number that is not negative"),
        ("CLUSTER_GPU_COST", "-1", "a number that is not negative"),
        ("CLUSTER_COOKIE_SECURE", "yes", "true or false"),
        ("CLUSTER_TRAINING_PRECISION", "fp16", "one of"),
        ("CLUSTER_EMAIL_SECURITY", "ssl", "one of none, starttls, tls"),
        ("CLUSTER_OVERFLOW_QUEUES", "gpu,gqu", "queues of live, default, low-priority, gpu, gpu-large, imports, jvm"),
        ("CLUSTER_OVERFLOW_SECONDS", "-2", "a whole number from -1"),
        ("CLUSTER_OVERFLOW_SECONDS", "never", "a whole number from -1"),
        ("CLUSTER_OVERFLOW_QUEUES", "trainings-held", "queues of live"),
        ("CLUSTER_USER_TRAININGS", "-1", "a whole number from 0"),
        ("CLUSTER_USER_TRAININGS_RUNNING", "few", "a whole number from 0"),
        ("CLUSTER_IMPORT_REQUESTS_PER_HOST", "1000", "a whole number from 0 to 100"),
        ("CLUSTER_IMPORT_PATIENCE_SECONDS", "-1", "a whole number from 0"),
        ("CLUSTER_FETCH_TIMEOUT_SECONDS", "0", "a whole number from 1 to 90"),
        ("CLUSTER_MEDIA_ROOT", "media", "an absolute path"),
        ("CLUSTER_ALLOWED_HOSTS", "*", "expected host names"),
        ("CSRF_TRUSTED_ORIGINS", "htr.example.org", "expected scheme and host"),
        ("DEBUG", "False", "any text, even False, turns debugging on"),
        ("KRAKEN_TRAINING_DEVICE", "cuda", "cpu, mps or cuda:0"),
        ("SECRET_KEY", "a-beautiful-snowflake", "a published example value"),
    ],
)
def test_a_wrong_value_is_refused(environment: dict[str, str], name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^wrong environment: {name} .*{message}"):
        load_config(environment | {name: value})


@pytest.mark.parametrize(
    ("given", "queues", "seconds"),
    [
        ({}, (), 10),
        ({"CLUSTER_OVERFLOW_QUEUES": ""}, (), 10),
        ({"CLUSTER_OVERFLOW_QUEUES": "gpu"}, ("gpu",), 10),
        ({"CLUSTER_OVERFLOW_QUEUES": " gpu, default,gpu", "CLUSTER_OVERFLOW_SECONDS": "0"}, ("gpu", "default"), 0),
        ({"CLUSTER_OVERFLOW_QUEUES": "gpu", "CLUSTER_OVERFLOW_SECONDS": "-1"}, (), -1),
    ],
)
def test_a_worker_helps_out_where_its_unit_says_so(
    environment: dict[str, str], given: dict[str, str], queues: tuple[str, ...], seconds: int
) -> None:
    config = load_config(environment | given)
    assert (config.overflow_queues, config.overflow_seconds) == (queues, seconds)


def test_a_mail_password_needs_a_user(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="CLUSTER_EMAIL_USER"):
        load_config(environment | {"CLUSTER_EMAIL_PASSWORD": "mail-secret"})


def test_no_secret_is_shown(environment: dict[str, str]) -> None:
    secrets = ("mail-secret", environment["SECRET_KEY"], environment["CLUSTER_REDIS_PASSWORD"], "database-secret")
    mail = {"CLUSTER_EMAIL_USER": "relay", "CLUSTER_EMAIL_PASSWORD": "mail-secret"}
    shown = repr(load_config(environment | mail))
    with pytest.raises(ConfigError) as caught:
        load_config(environment | {"CLUSTER_EMAIL_PASSWORD": "mail-secret", "REDIS_PORT": "x"})
    assert not [secret for secret in secrets if secret in shown or secret in str(caught.value)]


def test_the_broker_alone_needs_only_its_own_variables() -> None:
    assert load_broker({"REDIS_HOST": "r", "CLUSTER_REDIS_PASSWORD": "p"}).url(1) == "redis://:p@r:6379/1"
    with pytest.raises(ConfigError, match="REDIS_HOST is not set; CLUSTER_REDIS_PASSWORD is not set"):
        load_broker({})


def test_with_an_authority_connections_are_encrypted_and_verified(environment: dict[str, str]) -> None:
    services = load_services(environment | {"CLUSTER_SERVICES_CA": "/etc/a b/ca.crt", "REDIS_PORT": "6380"})
    url = urlsplit(services.broker.url(1))
    assert (url.scheme, url.port, url.path) == ("rediss", 6380, "/1")
    assert dict(parse_qsl(url.query)) == {
        "ssl_cert_reqs": "required",
        "ssl_ca_certs": "/etc/a b/ca.crt",
        "ssl_check_hostname": "true",
    }
    arguments = services.database.arguments()
    assert (arguments["sslmode"], arguments["sslrootcert"]) == ("verify-full", "/etc/a b/ca.crt")


def test_without_an_authority_nothing_is_said_of_it(environment: dict[str, str]) -> None:
    for given_nothing in ({}, {"CLUSTER_SERVICES_CA": ""}):
        services = load_services(environment | given_nothing)
        assert services.broker.url(0).startswith("redis://")
        assert services.broker.tls() is None
        assert not [name for name in services.database.arguments() if name.startswith("ssl")]


def test_a_wrong_authority_is_named_once(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_services(environment | {"CLUSTER_SERVICES_CA": "ca.crt"})
    assert caught.value.problems == ["CLUSTER_SERVICES_CA is 'ca.crt', expected an absolute path"]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_password_survives_the_url(password: str) -> None:
    url = urlsplit(redis_url("10.0.0.1", 6379, password, 1))
    assert unquote(url.password or "") == password
    assert (url.hostname, url.port, url.path) == ("10.0.0.1", 6379, "/1")
