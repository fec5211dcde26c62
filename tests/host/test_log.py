import json
import logging
import os
import subprocess
import sys
import time

from service.host import log

IMPORT = """
from service.host.log import configure_logging
"""


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: logging is configured once for all of it."""
    return subprocess.run(
        [sys.executable, "-c", IMPORT + script],
        capture_output=True,
        text=True,
        timeout=30,
        env=os.environ | environment,
    )


def test_json_log_lines_carry_extra_fields_and_the_traceback() -> None:
    done = run("""
import logging
configure_logging(log_format="json", level="info")
logging.getLogger("a").debug("hidden")
logging.getLogger("a").info("moved %s", "192.0.2.1", extra={"floating_ip": "192.0.2.1"})
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("b").exception("two\\nlines")
""")
    first, second = map(json.loads, done.stderr.splitlines())
    assert first["time"].endswith("Z")
    assert {key: first[key] for key in ("level", "logger", "message", "floating_ip")} == {
        "level": "info",
        "logger": "a",
        "message": "moved 192.0.2.1",
        "floating_ip": "192.0.2.1",
    }
    assert second["message"] == "two\nlines"
    assert "ZeroDivisionError" in second["exception"]


def test_text_log_lines_are_in_utc() -> None:
    script = """
import logging
configure_logging(level="warning")
logging.getLogger("a").info("hidden")
logging.getLogger("a").warning("seen")
"""
    done = run(script, TZ="Asia/Tokyo")
    (line,) = done.stderr.splitlines()
    assert line.endswith("Z WARNING a: seen")
    assert line[:13] in {time.strftime("%Y-%m-%dT%H", time.gmtime(time.time() - late)) for late in (0, 60)}


def test_the_formatter_keeps_its_own_fields() -> None:
    record = logging.makeLogRecord({"name": "n", "levelname": "INFO", "msg": "m", "level": "no", "time": 1})
    assert json.loads(log.JsonFormatter().format(record))["level"] == "info"
