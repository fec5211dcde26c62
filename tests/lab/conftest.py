"""One small lab without agents and controllers, shared by the tests that only look at it or mend what they break."""

import itertools
import os
from collections.abc import Iterator

import pytest

from service.lab.lab import Lab, lab_down, lab_up
from service.lab.plan import LabOptions
from tests.conftest import missing_for_root

_numbers = itertools.count()


@pytest.fixture(scope="session")
def lab_name() -> Iterator[str]:
    """A name of a lab that nobody else has; cleared at the end whatever the tests have made of it."""
    name = f"egwt{os.getpid()}"
    yield name
    if not missing_for_root():
        lab_down(name)


@pytest.fixture(scope="session")
def site(lab_name: str) -> Lab:
    return lab_up(LabOptions(name=lab_name), processes=False)


@pytest.fixture
def other_name() -> Iterator[str]:
    """For a lab of one test."""
    name = f"egwt{os.getpid() % 100000}x{next(_numbers)}"
    yield name
    lab_down(name)
