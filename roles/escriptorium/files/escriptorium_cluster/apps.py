"""Django application of the cluster package: it exists so that Django finds the ``prepare_site`` command."""

from django.apps import AppConfig


class ClusterConfig(AppConfig):
    """No models, no signals, nothing to start."""

    name = "escriptorium_cluster"
    verbose_name = "eScriptorium cluster"
