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
router.register("types/block", views.BlockTypeViewSet)
router.register("types/line", views.LineTypeViewSet)

documents = routers.NestedSimpleRouter(router, "documents", lookup="document")
documents.register("parts", views.PartViewSet, basename="part")
documents.register("transcriptions", views.TranscriptionViewSet, basename="transcription")
documents.register("import", views.ImportViewSet, basename="import")

parts = routers.NestedSimpleRouter(documents, "parts", lookup="part")
parts.register("blocks", views.BlockViewSet)
parts.register("lines", views.LineViewSet)
parts.register("transcriptions", views.LineTranscriptionViewSet)

app_name = "api"
urlpatterns = [
    path("", include(router.urls)),
    path("", include(documents.urls)),
    path("", include(parts.urls)),
    path("api-auth/", include("rest_framework.urls", namespace="rest_framework")),
    path("token-auth/", views.RegenerableAuthToken.as_view()),
]
