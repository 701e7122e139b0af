"""What all tests share: how hard Hypothesis tries, and one thread a process."""

import os

from hypothesis import HealthCheck, settings

# The nets of the tests are small; threads that wait for one another make them many times slower on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A deadline would measure the machine; drawing a space takes a while on a busy one.
settings.register_profile("deps", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("deps")
