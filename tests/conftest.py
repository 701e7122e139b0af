"""What all tests share: how hard Hypothesis tries."""

from hypothesis import HealthCheck, settings

# A deadline would measure the machine; drawing a space takes a while on a busy one.
settings.register_profile("deps", deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("deps")
