"""Upstream's URLs, ``/health/``, and the question of nginx whether somebody may read a file."""

from django.urls import path
from escriptorium.urls import urlpatterns as upstream_urlpatterns

from escriptorium_cluster.health import health
from escriptorium_cluster.media import media

urlpatterns = [
    path("health/", health, name="cluster-health"),
    path("_media", media, name="cluster-media"),
    *upstream_urlpatterns,
]

#: What answers a request that is wrong in itself: an upload that is refused says why.
handler400 = "escriptorium_cluster.uploads.bad_request"
