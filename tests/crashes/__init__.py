"""The crash matrix: a real mount is killed, or loses its power, before and after every step that has a name.

`python -m tests.crashes` runs it and prints it as a table; tests/t4_mount/test_crashes.py runs it as tests.
"""
