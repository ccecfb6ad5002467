"""The project package of the stand-in, with the module names of eScriptorium."""

from .celery import app as celery_app

__all__ = ["celery_app"]
