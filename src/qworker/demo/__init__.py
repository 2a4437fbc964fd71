"""`qworker demo`: the whole of qworker at work, hung, stopped and killed, on this machine, in under a minute.

    cli/demo ─► story ─┬─► stage    a temporary directory, a private server, worker processes, and nothing left of them
                       ├─► corpus   the real work: the source files that this Python ships, and what to find in them
                       ├─► tasks    a user's module, run by the workers; each start is written down (notes)
                       ├─► screen   what happens, while it happens
                       └─► ledger   facts ─► judge ─► what is shown, the object for machines, the exit code

What the ledger says was observed by this process: outcomes as futures brought them, starts as the tasks themselves
wrote them down, processes and threads as the kernel lists them, sums as a plain loop over the same files finds them.
Nothing in it is one of the queue's own counters.
"""
