"""qworker measured beside its peers, on one server, in one run: `python -m benchmarks` (README.md says how)."""
