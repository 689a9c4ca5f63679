"""Kinds of faults; apart, so that the command line knows them without the simulator."""

KINDS = ("crash", "freeze", "hole", "partition", "cut", "slow")
"""crash: power off, on again later. freeze: neither hears nor is heard. hole: nothing arrives one way.
partition: two groups that do not reach each other. cut: connections break. slow: 20 kB/s for a while."""
