"""Short fits of proposals: what is compared here are two devices."""

import pytest

from pyro_vae.evidence.refinement import refine


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    monkeypatch.setitem(refine.__kwdefaults__, "steps", 20)
