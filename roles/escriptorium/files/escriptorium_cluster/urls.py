"""Upstream's URLs, ``/health/``, and ``/logout/`` as upstream's pages ask for it."""

from django.urls import path
from escriptorium.urls import urlpatterns as upstream_urlpatterns

from escriptorium_cluster.health import health
from escriptorium_cluster.logins import LogOut

urlpatterns = [
    path("health/", health, name="cluster-health"),
    # The name by which upstream's pages link to it, and lets expired accounts pass.
    path("logout/", LogOut.as_view(), name="logout"),
    *upstream_urlpatterns,
]
