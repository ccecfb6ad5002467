"""URLs, at eScriptorium's paths."""

from django.contrib import admin
from django.urls import include, path

from core.views import (
    DocumentDashboard,
    EditPart,
    Home,
    ModelCancelTraining,
    ModelRightDelete,
    ModelRights,
    ProjectList,
)
from reporting.views import DocumentReport, ProjectReport, ReportDetail
from users.views import GroupDetail, ProfileApiKey, ProfileGroupListCreate, ProfileInfos

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", Home.as_view(), name="home"),
    path("projects/", ProjectList.as_view(), name="projects-list"),
    path("document/<int:pk>/", DocumentDashboard.as_view(), name="document-detail"),
    path("document/<int:pk>/parts/edit/", EditPart.as_view(), name="document-part-edit"),
    path("document/<int:pk>/part/<int:part_pk>/edit/", EditPart.as_view(), name="document-part-edit"),
    path("document/<int:pk>/reports/", DocumentReport.as_view(), name="document-report"),
    path("project/<str:slug>/reports/", ProjectReport.as_view(), name="project-report"),
    path("model/<int:pk>/cancel_training/", ModelCancelTraining.as_view(), name="model-cancel-training"),
    path("model/<int:pk>/rights/", ModelRights.as_view(), name="model-rights"),
    path("model/<int:modelPk>/right/<int:pk>/delete/", ModelRightDelete.as_view(), name="model-right-delete"),
    path("profile/", ProfileInfos.as_view(), name="profile"),
    path("profile/apikey/", ProfileApiKey.as_view(), name="profile-api-key"),
    path("profile/teams/", ProfileGroupListCreate.as_view(), name="profile-team-list"),
    path("teams/<int:pk>/", GroupDetail.as_view(), name="team-detail"),
    path("", include("django.contrib.auth.urls")),
    path("quotas/<int:pk>/", ReportDetail.as_view(), name="report-detail"),
    path("api/", include("api.urls", namespace="api")),
    path("", include("django_prometheus.urls")),
]
