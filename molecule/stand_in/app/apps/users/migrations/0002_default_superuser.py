"""Makes the first administrator from the environment: admin with the password admin when it says nothing.

This mirrors a trap of eScriptorium, whose first migration does the same.
"""

import os

from django.contrib.auth.hashers import make_password
from django.db import migrations


def generate_superuser(apps, schema_editor):
    """Create the account."""
    apps.get_model("users", "User").objects.create(
        username=os.environ.get("DJANGO_SU_NAME", "admin"),
        email=os.environ.get("DJANGO_SU_EMAIL", "admin@admin.com"),
        password=make_password(os.environ.get("DJANGO_SU_PASSWORD", "admin")),
        is_staff=True,
        is_superuser=True,
    )


class Migration(migrations.Migration):
    """Data only."""

    dependencies = [("users", "0001_initial")]

    operations = [migrations.RunPython(generate_superuser, migrations.RunPython.noop)]
