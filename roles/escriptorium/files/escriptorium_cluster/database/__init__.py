"""Django's backend for PostgreSQL, with connections that outlive a restart of the server: see base.py."""
