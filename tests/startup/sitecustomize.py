"""Collect garbage rarely in the processes that tests start: their imports leave none, and looking takes a second of each."""

import gc

gc.set_threshold(100_000, 20, 20)
