"""Requests that go on all the time, and what became of them: what users of a site see while it changes."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    import requests
    from support import Site

#: Seconds between the end of a request and the next one of the same kind, and seconds that a request may take.
PAUSE: Final = 0.25
TIMEOUT: Final = 120.0


@dataclass
class Count:
    """What became of one kind of request.

    Attributes:
        done: requests that were answered as they should be.
        failed: a line for each other one.
        longest: seconds that the slowest one took.

    """

    done: int = 0
    failed: list[str] = field(default_factory=list)
    longest: float = 0.0


class Load:
    """Sends requests from threads of its own, one for each kind, from ``with`` until its end.

    Pages come over new connections, as of many users; the API over one that is kept, with requests that write, which no
    proxy sends twice.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.counts: dict[str, Count] = {}
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        api = self.site.api
        headers = dict(api.session.headers)

        def page(path: str, content: str) -> Callable[[], Any]:
            def send() -> requests.Response:
                with self.site.session() as session:
                    reply = session.get(f"{self.site.base}{path}", timeout=TIMEOUT)
                assert content in reply.text, f"{path} answered {reply.text[:100]!r}"
                return reply

            return send

        writer, reader = self.site.session(), self.site.session()
        writer.headers.update(headers)
        reader.headers.update(headers)
        numbers = iter(range(1_000_000))

        def write() -> requests.Response:
            content = {"name": f"load {time.time_ns()} {next(numbers)}"}
            return writer.post(f"{self.site.base}/api/projects/", json=content, timeout=TIMEOUT)

        kinds: dict[str, Callable[[], Any]] = {
            "login page": page("/login/", "csrfmiddlewaretoken"),
            "static file": page("/static/main.css", "{"),
            "API, reading": lambda: reader.get(f"{self.site.base}/api/documents/", timeout=TIMEOUT),
            "API, writing": write,
        }
        for name, send in kinds.items():
            self.counts[name] = Count()
            self._threads.append(threading.Thread(target=self._repeat, args=(send, self.counts[name]), name=name))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, send: Callable[[], Any], count: Count) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            try:
                reply = send()
                assert reply.ok, f"{reply.status_code} {reply.text[:200]!r}"
            except Exception as error:  # whatever it is, a user would have seen it
                count.failed.append(f"{time.strftime('%H:%M:%S')} {type(error).__name__}: {error}")
            else:
                count.done += 1
            count.longest = max(count.longest, time.monotonic() - began)
            self._over.wait(PAUSE)

    def failures(self) -> list[str]:
        """Return a line for each request that failed."""
        return list(self._lines())

    def _lines(self) -> Iterator[str]:
        for name, count in self.counts.items():
            yield from (f"{name}: {line}" for line in count.failed)

    def summary(self) -> str:
        """Return numbers and longest times of all kinds, in one line."""
        return "; ".join(
            f"{name}: {count.done} answered, {len(count.failed)} failed, longest {count.longest:.1f} s"
            for name, count in self.counts.items()
        )
