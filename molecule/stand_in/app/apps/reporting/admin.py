"""Task reports in the administration pages."""

from django.contrib import admin

from reporting.models import TaskGroup, TaskReport

admin.site.register([TaskGroup, TaskReport])
