"""Reads a whole topic with an ordinary client; also by `python -m tests.kafka.topic BROKERS TOPIC`."""

import asyncio
import json
import sys
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition


async def read_topic(brokers: str, topic: str) -> list[Any]:
    """Every record that is in the topic now; within a partition in order."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=brokers, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
        assert partitions, f"{brokers} has no topic {topic}"
        ends = await consumer.end_offsets(partitions)
        records: list[Any] = []
        while any([await consumer.position(one) < ends[one] for one in partitions]):
            for found in (await consumer.getmany(timeout_ms=500)).values():
                records += found
        return records
    finally:
        await consumer.stop()


if __name__ == "__main__":
    for record in asyncio.run(read_topic(sys.argv[1], sys.argv[2])):
        fields = {"partition": record.partition, "key": record.key.decode(), "value": record.value.decode()}
        print(json.dumps(fields))
