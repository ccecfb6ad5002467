"""The API's addresses, those of eScriptorium."""

from django.urls import include, path
from rest_framework_nested import routers

from api import views

router = routers.DefaultRouter()
router.register("scripts", views.ScriptViewSet)
router.register("projects", views.ProjectViewSet)
router.register("documents", views.DocumentViewSet)
router.register("tasks", views.TaskReportViewSet)
router.register("models", views.OcrModelViewSet)
router.register("users", views.UserViewSet)
router.register("groups", views.GroupViewSet)
router.register("types/block", views.BlockTypeViewSet)
router.register("types/line", views.LineTypeViewSet)

projects = routers.NestedSimpleRouter(router, "projects", lookup="project")
projects.register("tags", views.DocumentTagViewSet, basename="document-tag")

documents = routers.NestedSimpleRouter(router, "documents", lookup="document")
documents.register("parts", views.PartViewSet, basename="part")
documents.register("metadata", views.DocumentMetadataViewSet, basename="metadata")
documents.register("transcriptions", views.DocumentTranscriptionViewSet, basename="transcription")
documents.register("import", views.ImportViewSet, basename="import")

parts = routers.NestedSimpleRouter(documents, "parts", lookup="part")
parts.register("blocks", views.BlockViewSet)
parts.register("lines", views.LineViewSet)
parts.register("transcriptions", views.LineTranscriptionViewSet)
parts.register("metadata", views.PartMetadataViewSet, basename="partmetadata")

app_name = "api"
urlpatterns = [
    path("", include(router.urls)),
    path("", include(documents.urls)),
    path("", include(parts.urls)),
    path("", include(projects.urls)),
    path("api-auth/", include("rest_framework.urls", namespace="rest_framework")),
    path("token-auth/", views.RegenerableAuthToken.as_view()),
]
