"""The contestants: each an adapter that runs as a process of its own, in its own environment (base.py)."""
