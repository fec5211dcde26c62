"""What a controller counts of its reports."""

import asyncio

from prometheus_client import CollectorRegistry, generate_latest

from service.report.metrics import ReportCollector
from service.report.validity import VALID_NS
from tests.report.test_writer import Reporting
from tests.virtual_time import in_virtual_time


@in_virtual_time
async def test_that_every_status_is_unknown_is_a_metric_for_as_long_as_it_lasts() -> None:
    async with Reporting() as reporting:
        registry = CollectorRegistry()
        registry.register(ReportCollector(reporting.writer))
        await asyncio.sleep(1)
        assert b"egressgw_status_unknown 0.0" in generate_latest(registry)
        reporting.site.term = None
        await asyncio.sleep(2 * VALID_NS / 1e9)
        assert b"egressgw_status_unknown 1.0" in generate_latest(registry)
        reporting.site.term = 8
        await asyncio.sleep(10)
        assert b"egressgw_status_unknown 0.0" in generate_latest(registry)
        assert b"egressgw_events_lost_total 0.0" in generate_latest(registry)
