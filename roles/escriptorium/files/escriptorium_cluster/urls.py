"""Upstream's URLs and ``/health/``."""

from django.urls import path
from escriptorium.urls import urlpatterns as upstream_urlpatterns

from escriptorium_cluster.health import health

urlpatterns = [path("health/", health, name="cluster-health"), *upstream_urlpatterns]
