"""Upstream's URLs, ``/health/``, ``/logout/`` as upstream's pages ask for it, and nginx's question about a file."""

from django.urls import path
from escriptorium.urls import urlpatterns as upstream_urlpatterns

from escriptorium_cluster.health import health
from escriptorium_cluster.logins import LogOut
from escriptorium_cluster.media import media

urlpatterns = [
    path("health/", health, name="cluster-health"),
    path("_media", media, name="cluster-media"),
    # The name by which upstream's pages link to it, and lets expired accounts pass.
    path("logout/", LogOut.as_view(), name="logout"),
    *upstream_urlpatterns,
]

#: What answers a request that is wrong in itself: an upload that is refused says why.
handler400 = "escriptorium_cluster.uploads.bad_request"
