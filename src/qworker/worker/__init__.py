"""The worker: one event loop, no user code, one role per file around one window.

    Redis ──claim──► fetcher ──► ledger ──► pools ──► children
      ▲                keeper ──renew──┐      │
      └──── settle ◄── settler ◄── blame ◄── endings

Decisions (window, lease, blame) are pure objects: time and events in, actions out. Only `daemon` joins them.
"""
