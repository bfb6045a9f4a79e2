"""Count the tests that use a GPU."""

import pytest
import torch


@pytest.fixture(autouse=True)
def cuda_allocations(record_property):
    """Record in the JUnit report how many tensors a test allocates on the GPU; ``run_all.py`` counts tests with any."""
    if not torch.cuda.is_available():
        yield
        return
    before = torch.cuda.memory_stats().get('allocation.all.allocated', 0)
    yield
    record_property('cuda_allocations', torch.cuda.memory_stats().get('allocation.all.allocated', 0) - before)
