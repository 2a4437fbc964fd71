"""Which server and which namespace an app's tasks go to.

App(url=…) ─┬─► as given
            ├─► QWORKER_URL, [tool.qworker] (config.py)
            └─► the embedded server of this project (broker/embedded.py), started if it does not run
"""

from __future__ import annotations

from . import context, ids

__all__ = ["Address"]


class Address:
    """Where an app is at home. What was not given is looked up each time, so that tests and children may set it."""

    def __init__(self, url: str | None, namespace: str | None) -> None:
        self.given = url  # testing.bound lends an app another
        self._namespace = ids.check_namespace(namespace) if namespace is not None else None
        self._told = False  # that the embedded server is used

    @property
    def url(self) -> str | None:
        """The server's address as it was given or set; None: the embedded server."""
        return self.given or _configured("url")

    @property
    def namespace(self) -> str:
        """The namespace of the app's queues."""
        return self._namespace or _configured("namespace") or "default"

    def find(self) -> str:
        """Return the server's URL. For the embedded server: see to it that it runs, each time it is asked."""
        url = self.url
        if url is not None:
            return url
        from .broker import embedded

        server = embedded.ensure()
        # A worker's children use the server that it has told of; said here, it would be their tasks' own output.
        if not self._told and not context.in_child():
            self._told = True
            import logging

            # Who starts a server is told without having asked; that it is used again is for those who log.
            level = logging.WARNING if server.started else logging.INFO
            logging.getLogger("qworker").log(level, "no server's URL is set: %s", server.line)
        return server.url


def _configured(name: str) -> str | None:
    from .config import Settings

    value = getattr(Settings.load({}), name)
    return None if value is None else str(value)
