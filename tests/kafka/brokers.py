"""Topics of brokers that tests start."""

import asyncio
import subprocess
import sys
from collections.abc import Mapping, Sequence

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

PARTITIONS = 6


async def create_topic(brokers: str, topic: str, configs: Mapping[str, str] | None = None) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
    await admin.start()
    try:
        response = await admin.create_topics([NewTopic(topic, PARTITIONS, 1, topic_configs=dict(configs or {}))])
        assert all(code == 0 for _, code, *_ in response.topic_errors), response
    finally:
        await admin.close()


def create_topic_within(prefix: Sequence[str], brokers: str, topic: str) -> None:
    """The same from within a namespace."""
    subprocess.run([*prefix, sys.executable, "-m", "tests.kafka.brokers", brokers, topic], check=True, timeout=60)


if __name__ == "__main__":
    asyncio.run(create_topic(sys.argv[1], sys.argv[2]))
