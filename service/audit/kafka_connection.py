"""What any Kafka client of ours is told to reach the brokers, and how a missing topic is created.

aiokafka is imported where it is used: a process without Kafka configured does not pay for it.
"""

import logging
import ssl
from pathlib import Path
from typing import Any

from service.model.errors import OperatorError
from service.settings import KafkaSettings

_log = logging.getLogger(__name__)

RETRY_BACKOFF_MS = 100
_METADATA_AGE_MS = 60_000
"""New partitions and moved leaders are seen after so long even if no broker ever refused anything."""


def client_options(kafka: KafkaSettings, *, client_id: str) -> dict[str, Any]:
    """Keyword arguments that producers, consumers and admin clients of aiokafka have in common.

    Certificates and the password are read from their files now. Raises OperatorError naming the key.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": list(kafka.bootstrap_servers),
        "client_id": kafka.client_id or client_id,
        "request_timeout_ms": kafka.request_timeout_ms,
        "retry_backoff_ms": RETRY_BACKOFF_MS,
        "metadata_max_age_ms": _METADATA_AGE_MS,
    }
    protocol = "SSL" if kafka.tls.enabled else "PLAINTEXT"
    if kafka.tls.enabled:
        options["ssl_context"] = _tls_context(kafka)
    if kafka.sasl.mechanism:
        protocol = "SASL_SSL" if kafka.tls.enabled else "SASL_PLAINTEXT"
        options["sasl_mechanism"] = kafka.sasl.mechanism
        options["sasl_plain_username"] = kafka.sasl.username
        options["sasl_plain_password"] = _password(kafka.sasl.password_file)
    return options | {"security_protocol": protocol}


def quiet_library() -> None:
    """aiokafka logs every failed attempt as an error; states are told here once, when they change."""
    logger = logging.getLogger("aiokafka")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)


async def create_topic(kafka: KafkaSettings, *, client_id: str) -> None:
    """Create the topic unless it exists. Raises OperatorError where brokers refuse, else KafkaError."""
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic
    from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

    # By append time: records that waited out an outage are then kept as long as any, and no node's clock is refused.
    configs = {"cleanup.policy": "delete", "message.timestamp.type": "LogAppendTime"}
    topic = NewTopic(kafka.topic, kafka.partitions, kafka.replication_factor, topic_configs=configs)
    admin = AIOKafkaAdminClient(**client_options(kafka, client_id=client_id))
    try:
        await admin.start()
        if kafka.topic in await admin.list_topics():
            return
        response = await admin.create_topics([topic], timeout_ms=kafka.request_timeout_ms)
        for _, code, *message in response.topic_errors:
            error = for_code(code)
            if code and error is not TopicAlreadyExistsError:
                if getattr(error, "retriable", False):
                    raise KafkaError(f"{error.__name__}: {message}")
                text = message[0] if message and message[0] else error.description
                raise OperatorError(f"kafka.create_topic: the brokers refuse to create {kafka.topic!r}: {text}")
            if not code:
                _log.info("created the Kafka topic %s with %d partitions", kafka.topic, kafka.partitions)
    finally:
        await admin.close()


def _tls_context(kafka: KafkaSettings) -> ssl.SSLContext:
    tls = kafka.tls
    try:
        context = ssl.create_default_context(cafile=tls.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise OperatorError(f"kafka.tls.ca_file: cannot read {tls.ca_file}: {error}") from error
    context.check_hostname = tls.verify_hostname
    if tls.cert_file:
        try:
            # A password callback, or a key with a passphrase would ask for it on the terminal.
            context.load_cert_chain(tls.cert_file, tls.key_file or None, password=lambda: b"")
        except (OSError, ssl.SSLError) as error:
            files = f"{tls.cert_file} and {tls.key_file}" if tls.key_file else tls.cert_file
            raise OperatorError(f"kafka.tls.cert_file: cannot use {files}: {error}") from error
    return context


def _password(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"kafka.sasl.password_file: cannot read {path}: {error}") from error
