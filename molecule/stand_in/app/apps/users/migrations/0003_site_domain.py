"""Sets the name and domain of the site, if there is one: on a new database there is none yet.

This mirrors a trap of eScriptorium: the row is made after all migrations, and so stays example.com.
"""

import os

from django.db import migrations


def change_domain_name(apps, schema_editor):
    """Change the first site."""
    site = apps.get_model("sites", "Site").objects.first()
    if site:
        site.name = os.getenv("SITE_NAME", "escriptorium")
        site.domain = os.getenv("DOMAIN", "localhost")
        site.save()


class Migration(migrations.Migration):
    """Data only."""

    dependencies = [("users", "0002_default_superuser"), ("sites", "0002_alter_domain_unique")]

    operations = [migrations.RunPython(change_domain_name, migrations.RunPython.noop)]
