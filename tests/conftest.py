"""What holds for all tests."""

from hypothesis import HealthCheck, settings

# On a machine that is shared, the time that an example takes says nothing about the code.
settings.register_profile("shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared-machine")
