"""The few writing systems that the stand-in knows."""

from django.db import migrations

SCRIPTS = [
    ("Latn", "Latin", "latin", "horizontal-lr"),
    ("Grek", "Greek", "grec", "horizontal-lr"),
    ("Arab", "Arabic", "arabe", "horizontal-rl"),
    ("Hebr", "Hebrew", "hébreu", "horizontal-rl"),
    ("Syrc", "Syriac", "syriaque", "horizontal-rl"),
]


def load_scripts(apps, schema_editor):
    """Create the rows."""
    Script = apps.get_model("core", "Script")
    Script.objects.bulk_create(
        Script(iso_code=code, name=name, name_fr=french, text_direction=direction)
        for code, name, french, direction in SCRIPTS
    )


class Migration(migrations.Migration):
    """Data only."""

    dependencies = [("core", "0002_initial")]

    operations = [migrations.RunPython(load_scripts, migrations.RunPython.noop)]
