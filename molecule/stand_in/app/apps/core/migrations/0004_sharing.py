from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("core", "0003_load_scripts"),
    ]

    operations = [
        migrations.AddField(
            model_name="project",
            name="shared_with_groups",
            field=models.ManyToManyField(blank=True, related_name="shared_projects", to="auth.group"),
        ),
        migrations.AddField(
            model_name="document",
            name="shared_with_users",
            field=models.ManyToManyField(blank=True, related_name="shared_documents", to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddField(
            model_name="document",
            name="shared_with_groups",
            field=models.ManyToManyField(blank=True, related_name="shared_documents", to="auth.group"),
        ),
    ]
