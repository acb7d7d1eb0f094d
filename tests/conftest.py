"""For all tests: the filter that a service puts on orch's loggers, which counts repetitions, ends with its test."""

import logging
import os
import sys
from collections.abc import Iterator

import pytest

os.environ.setdefault("ORCH_AUTH", "none")  # for services whose tests are not about who may come in


@pytest.fixture(autouse=True)
def _no_filter_of_another_test() -> Iterator[None]:
    yield
    if module := sys.modules.get("orchestrator.safe_log"):  # not imported here: mutation testing imports the core later
        module.SAFE_LOG.mask = True
        module.SAFE_LOG._kinds.clear()
        for name in list(logging.root.manager.loggerDict):
            logging.getLogger(name).removeFilter(module.SAFE_LOG)
