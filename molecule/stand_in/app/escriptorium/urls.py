"""URLs, at eScriptorium's paths."""

from django.contrib import admin
from django.urls import include, path

from users.views import ApiKeyView, HomeView, PlainView

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", HomeView.as_view(), name="home"),
    path("projects/", PlainView.as_view(), name="projects-list"),
    path("profile/", PlainView.as_view(), name="profile"),
    path("profile/apikey/", ApiKeyView.as_view(), name="profile-api-key"),
    path("", include("django.contrib.auth.urls")),
    path("quotas/<int:pk>/", PlainView.as_view(), name="report-detail"),
    path("api/", include("api.urls", namespace="api")),
    path("", include("django_prometheus.urls")),
]
