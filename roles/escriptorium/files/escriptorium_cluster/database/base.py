"""Lets the jobs of a worker outlive a database that is away for a while. ``DATABASES`` names this package.

Django keeps a job's connection for as long as the job runs. When the server is restarted meanwhile, the next query of
a training of six hours fails, and so does every job that a worker begins while the server is away: it takes one after
the other and fails them all within seconds. Here

- a connection that was lost while nobody asked anything is replaced before the next query is sent. Nothing is sent
  twice: the server has closed its end, and that can be seen without a question;
- in the processes that run jobs, connecting waits until the server is back, however long that takes;
- a worker whose host the server lets in no more gives its jobs to others and ends: it would fail one after the other.
  Its unit waits until the host is let in again (``wait``);
- whatever fails because the server went away (a query, its end, a piece of its answer) fails as ever, and is counted:
  ``again`` begins the job anew. What fails to connect has lost nothing.

Elsewhere (web, commands) nobody waits.
"""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Any

from django.db.backends.postgresql import base
from django.db.utils import DatabaseErrorWrapper, Error, InterfaceError

from escriptorium_cluster import lease
from escriptorium_cluster.patience import connect_patiently, let_in_no_more, patience, server_has_gone

logger = logging.getLogger(__name__)


class Losses(DatabaseErrorWrapper):
    """What Django does with each error of the database, whatever was asked; those that are losses are counted."""

    def __exit__(self, *raised: object) -> None:
        try:
            super().__exit__(*raised)
        except Error as error:
            connection = self.wrapper.connection
            # The last: a cursor of a connection that was lost, and replaced for another query.
            if (connection is not None and connection.closed) or isinstance(error, InterfaceError):
                patience.losses += 1
            raise


class DatabaseWrapper(base.DatabaseWrapper):
    """A connection of Django's to PostgreSQL."""

    @cached_property
    def wrap_database_errors(self) -> Losses:
        """Django asks for this around all that it asks the database."""
        return Losses(self)

    def get_new_connection(self, conn_params: Any) -> Any:
        """Connect; a job waits for that."""
        if not patience.applies():
            return super().get_new_connection(conn_params)
        connect = super().get_new_connection
        try:
            return connect_patiently(lambda: connect(conn_params), base.Database.OperationalError)
        except base.Database.OperationalError as error:
            if let_in_no_more(error) and lease.current is not None:
                lease.current.leave(" ".join(str(error).split()))
            raise

    def ensure_connection(self) -> None:
        """Django calls this before each query, and before a transaction begins."""
        idle = self.connection is not None and not self.in_atomic_block
        if idle and server_has_gone(self.connection, base.Database.Error):
            logger.warning("the connection to the database was lost; a new one takes its place")
            self.close()
        super().ensure_connection()
