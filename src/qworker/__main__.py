"""`python -m qworker` is the command `qworker`."""

from qworker.cli import main

if __name__ == "__main__":
    main()
