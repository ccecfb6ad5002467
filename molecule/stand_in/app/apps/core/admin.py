"""The objects in the administration pages."""

from django.contrib import admin

from core.models import Document, DocumentPart, OcrModel, Project, Script

admin.site.register([Document, DocumentPart, OcrModel, Project, Script])
