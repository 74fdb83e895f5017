from hypothesis import settings

# no deadline: how long an example takes depends on the machine
settings.register_profile("statistics", deadline=None)
settings.load_profile("statistics")
