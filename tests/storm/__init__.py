"""A storm: the worker is killed and replaced again and again, while applications compare all that they see.

    python -m tests.storm --kills 50 --seed 7 --mode passthrough --how kill

Applications of many habits, each a process with a directory of its own in one mount, do what brokers, databases, shells
and backups do; operators archive, release, restore and evict. At random moments the worker gets SIGKILL, or the
supervisor is asked for an upgrade. No call of an application may fail or give another result than a local filesystem
gives; how long the calls took is told. What an application does follows from the seed alone; when the worker dies
relative to it does not.
"""
