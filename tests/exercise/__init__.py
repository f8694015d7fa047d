"""A random I/O exerciser: applications that compare all that they read with what they wrote, while bytes move.

    python -m tests.exercise --operations 1000000 --seed 7 --mode passthrough

Several applications, each a process with a directory of its own in one mount, do random operations at random offsets
and compare with a shadow in memory. Meanwhile operators archive, release, restore and evict at random, and now and then
everything is closed, unmounted and mounted again. What an application does follows from the seed alone; when bytes move
does not. A mismatch is told with the seed, the number of the operation, what was done to the file before, and the first
offset that differs; what lies on the disks is kept.
"""
