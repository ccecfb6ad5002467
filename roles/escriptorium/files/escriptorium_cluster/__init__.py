"""What a cluster of hosts adds to eScriptorium, beside its unpatched source.

Importing this package imports neither Django nor Celery: ``workers`` and ``wait`` run before an application is usable.
"""
