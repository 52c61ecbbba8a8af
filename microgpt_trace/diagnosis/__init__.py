"""Which operation of another run's dump is wrong by itself, and which known mistake explains it."""
