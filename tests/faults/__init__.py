"""Faults injected into the real program, and what became of each: python -m tests.faults.

jobs.py are the commands, lab.py runs them and knows what they make undisturbed, moments.py is what
happens in the process of a command, verdict.py says what became of it, table.py counts. The kinds
of faults: signals.py, storage.py, damage.py, numbers.py, workers.py, several.py, clocks.py.
"""
