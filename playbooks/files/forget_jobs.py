"""Removes the jobs that wait or are handed out, and empties the cache. Prints how many jobs there were.

Runs with the application's Python and environment, while no worker does.
"""

from __future__ import annotations

import os

import django

django.setup()

from django.core.cache import cache  # noqa: E402 - Django has to know its settings first
from escriptorium_cluster.config import QUEUES, load_broker  # noqa: E402
from redis import Redis  # noqa: E402

broker = Redis.from_url(load_broker(os.environ).url(0))
# A queue has a list of its own for each priority: its name, and what kombu adds to it.
lists = [name for queue in QUEUES for name in (queue.encode(), *broker.scan_iter(f"{queue}\x06\x16*"))]
jobs = sum(int(broker.llen(name)) for name in lists) + int(broker.hlen("unacked"))
broker.delete(*lists, "unacked", "unacked_index")
cache.clear()
print(jobs)
