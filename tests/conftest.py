"""How property tests run everywhere: without a deadline, for test machines are shared and slow."""

from hypothesis import settings

settings.register_profile("wherry", deadline=None)
settings.load_profile("wherry")
