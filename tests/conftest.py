"""Settings for all tests."""

import os

# Two test processes with two OpenMP threads each on two cores spend their time waiting for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
