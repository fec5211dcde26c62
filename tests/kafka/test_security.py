"""TLS with client certificates, SASL and access rights, against a broker that insists on them."""

import datetime
import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from loadtest.broker import Broker
from service.settings import KafkaSettings
from tests.kafka.test_publisher import append, kafka_settings, new_outbox, running, until

pytestmark = pytest.mark.kafka

PASSWORDS = {"gateway": "g4teway", "guest": "gu3st"}
PKCS8 = serialization.PrivateFormat.PKCS8


class Authority:
    """Signs certificates for one test site."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.file = folder / "ca.pem"
        certificate = self._sign(self._name, self._key, x509.BasicConstraints(ca=True, path_length=None))
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> Path:
        """A PEM file with key and certificate, for 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = self._sign(subject, key, address)
        path = self._folder / f"{name}.pem"
        path.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, PKCS8, serialization.NoEncryption())
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        return path

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(
            issuer_name=self._name,
            subject_name=subject,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - datetime.timedelta(days=1),
            not_valid_after=now + datetime.timedelta(days=1),
        )
        return builder.add_extension(extension, critical=False).sign(self._key, hashes.SHA256())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, Authority, Path]]:
    folder = tmp_path_factory.mktemp("site")
    authority = Authority(folder)
    users = " ".join(f'user_{name}="{password}"' for name, password in {"admin": "admin", **PASSWORDS}.items())
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    properties = [
        "ssl.keystore.type=PEM",
        f"ssl.keystore.location={authority.issue('broker')}",
        "ssl.truststore.type=PEM",
        f"ssl.truststore.location={authority.file}",
        "ssl.client.auth=required",
        "sasl.enabled.mechanisms=PLAIN",
        "sasl.mechanism.inter.broker.protocol=PLAIN",
        f'listener.name.client.plain.sasl.jaas.config={module} required username="admin" password="admin" {users};',
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users=User:admin;User:ANONYMOUS;User:gateway",
    ]
    for name, password in PASSWORDS.items():
        (folder / name).write_text(password + "\n")
    with Broker(folder / "broker", listener="SASL_SSL", properties=properties) as broker:
        yield broker, authority, folder


def secured(site: tuple[Broker, Authority, Path], topic: str, user: str, **tls: Any) -> KafkaSettings:
    broker, authority, folder = site
    return kafka_settings(
        broker.address,
        topic,
        create_topic=user == "gateway",
        replication_factor=1,
        tls={"enabled": True, "ca_file": str(authority.file), "cert_file": str(authority.issue(user))} | tls,
        sasl={"mechanism": "PLAIN", "username": user, "password_file": str(folder / user)},
    )


async def test_records_arrive_over_tls_with_a_client_certificate_and_a_password(
    site: tuple[Broker, Authority, Path], tmp_path: Path, topic: str
) -> None:
    async with running(secured(site, topic, "gateway"), new_outbox(tmp_path)) as (outbox, pub):
        append(outbox, 50)
        await until(lambda: pub.state.published == 50)


async def test_without_the_right_to_write_records_wait_loudly_and_go_out_when_it_is_given(
    site: tuple[Broker, Authority, Path], tmp_path: Path, topic: str
) -> None:
    async with running(secured(site, topic, "gateway"), new_outbox(tmp_path / "other")) as (outbox, pub):
        append(outbox, 1)
        await until(lambda: pub.state.published == 1)
    async with running(secured(site, topic, "guest"), new_outbox(tmp_path / "mine")) as (outbox, pub):
        append(outbox, 20)
        await until(lambda: not pub.state.healthy, 30)
        assert "uthoriz" in pub.state.reason
        assert (pub.state.published, pub.state.unpublishable, pub.state.lag_records) == (0, 0, 20)
    async with running(secured(site, topic, "gateway"), new_outbox(tmp_path / "mine")) as (outbox, pub):
        await until(lambda: pub.state.published == 20)


async def test_a_broker_of_a_strange_authority_is_not_trusted(
    site: tuple[Broker, Authority, Path], tmp_path: Path, topic: str
) -> None:
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    kafka = secured(site, topic, "gateway", ca_file=str(Authority(stranger).file))
    async with running(kafka, new_outbox(tmp_path / "outbox")) as (outbox, pub):
        append(outbox, 1)
        await until(lambda: pub.state.retries > 1)
        assert pub.state.published == 0
