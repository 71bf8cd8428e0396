"""A browser for the tests of the page, and what is said where there is none."""

import pytest
from report.browser import NAMES, Browser, found

_MISSING = (
    f"there is no Chromium here ({', '.join(NAMES)}), so nothing was seen of what the page "
    "computes; on Debian, `apt-get install chromium`"
)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    if found() is None:
        pytest.skip(_MISSING)
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def pytest_terminal_summary(terminalreporter):
    """Say loudly what was not looked at."""
    skipped = terminalreporter.stats.get("skipped", [])
    number = sum(_MISSING in str(report.longrepr) for report in skipped)
    if number:
        terminalreporter.write_sep("!", f"{number} tests of tests/report did not run: {_MISSING}")
