"""Django application of the cluster package."""

import os

from django.apps import AppConfig


class ClusterConfig(AppConfig):
    """No models. Django finds the ``prepare_site`` command here, and its processes learn what each file of it does."""

    name = "escriptorium_cluster"
    verbose_name = "eScriptorium cluster"

    def ready(self) -> None:
        """Tell Celery, which calls this in each worker before it makes its consumer."""
        from celery import current_app
        from django.conf import settings

        from escriptorium_cluster import again, api_keys, fetching, logins, training_slots, watchdog
        from escriptorium_cluster.overflow import install

        if settings.CLUSTER_OVERFLOW_QUEUES:
            install(current_app, settings.CLUSTER_OVERFLOW_QUEUES, settings.CLUSTER_OVERFLOW_SECONDS)
        training_slots.install(current_app, settings.CLUSTER_USER_TRAININGS_RUNNING)
        # After it: the last one to come stands first before a job, and a cancelled one takes no slot.
        again.install(current_app)
        fetching.install(**settings.CLUSTER_FETCHING)
        logins.install()
        api_keys.install()
        watchdog.install(current_app, os.environ, os.getpid())
