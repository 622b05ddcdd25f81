"""Property tests run without a limit of time for their examples: how fast the machine is proves nothing."""

from hypothesis import HealthCheck, settings

settings.register_profile("unimodel", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unimodel")
