"""The Kubernetes API server as raw requests: kubernetes_asyncio's authentication and transport, none of its models.

Every request has timeouts, every error status is raised, every patch names its content type; the library does none of
the three by itself when asked for raw responses.
"""

import asyncio
import importlib
import logging
import os
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import yaml

from service.model.errors import OperatorError, TransientError
from service.version import VERSION

if TYPE_CHECKING:
    from kubernetes_asyncio.client import ApiClient, Configuration

_log = logging.getLogger(__name__)

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
_CONNECT_S = 2.0
_REQUEST_S = 5.0
_LIST_S = 60.0
_READ_BYTES = 2**21
"""As kubernetes_asyncio has it: an event of a watch may be larger than aiohttp's own buffer."""
_KEEPALIVE_IDLE_S, _KEEPALIVE_INTERVAL_S, _KEEPALIVE_COUNT = 10, 5, 3
"""A peer that vanished without a word is noticed after 25 s; one that hangs but acknowledges, by the idle timeout."""
_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class ApiError(TransientError):
    """The API server refused or did not answer."""

    def __init__(self, status: int, reason: str, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{status} {reason}: {message}" if status else message)
        self.status = status
        """HTTP status; 0 where there was no answer."""
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s


class Status(msgspec.Struct):
    """The body of an error (meta/v1 Status), as far as we look."""

    code: int = 0
    reason: str = ""
    message: str = ""


_status_decoder = msgspec.json.Decoder(Status)


class _Response(aiohttp.ClientResponse):
    """Given up, before its head or in its middle, it is cut; a TLS connection is else shut down politely.

    A server that hangs never answers that: each attempt would keep a descriptor for half a minute more.
    """

    def close(self) -> None:
        if self.connection is not None and self.connection.transport is not None:
            self.connection.transport.abort()
        super().close()


class ApiServer:
    """One client of one API server. Make it with `connect`."""

    def __init__(self, client: "ApiClient") -> None:
        self._client = client
        self._is_reloading = False

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> bytes:
        """Read one object or page. Raises ApiError."""
        return await self._call("GET", path, query, None, "application/json", _LIST_S)

    async def create(self, path: str, body: Mapping[str, Any]) -> bytes:
        """Raises ApiError, 409 where it exists."""
        return await self._call("POST", path, None, body, "application/json", _REQUEST_S)

    async def patch(self, path: str, body: Any, content_type: str, query: Mapping[str, str] | None = None) -> bytes:
        """Raises ApiError, 404 where there is no such object."""
        return await self._call("PATCH", path, query, body, content_type, _REQUEST_S)

    async def delete(self, path: str, *, uid: str = "") -> None:
        """Delete an object, and with `uid` only that very one. It may be gone already. Raises ApiError."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}} if uid else None
        try:
            await self._call("DELETE", path, None, body, "application/json", _REQUEST_S)
        except ApiError as error:
            if error.status != 404:
                raise

    async def stream(self, path: str, query: Mapping[str, str], *, idle_s: float) -> AsyncGenerator[bytes, None]:
        """Yield an empty piece when the server has begun to answer, then its pieces as they come, until it ends.

        Raises ApiError, also after `idle_s` without a piece.
        """
        timeout = aiohttp.ClientTimeout(total=None, connect=_CONNECT_S, sock_connect=_CONNECT_S, sock_read=idle_s)
        async with self._respond("GET", path, query, None, "application/json", timeout) as response:
            _keep_alive(response)
            yield b""
            async for piece in response.content.iter_any():
                yield piece

    async def _call(
        self, method: str, path: str, query: Mapping[str, str] | None, body: Any, content_type: str, timeout_s: float
    ) -> bytes:
        timeout = aiohttp.ClientTimeout(
            total=timeout_s, connect=_CONNECT_S, sock_connect=_CONNECT_S, sock_read=timeout_s
        )
        async with self._respond(method, path, query, body, content_type, timeout) as response:
            return await response.read()

    @asynccontextmanager
    async def _respond(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Any,
        content_type: str,
        timeout: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        client = self._client
        headers = {"Accept": "application/json", "Content-Type": content_type, "User-Agent": f"egressgw/{VERSION}"}
        try:
            await client.update_params_for_auth(headers, [], ["BearerToken"])
            response: aiohttp.ClientResponse = await client.rest_client.request(
                method,
                f"{client.configuration.host}{path}",
                query_params=dict(query) if query else None,
                headers=headers,
                body=body,
                _preload_content=False,
                _request_timeout=timeout,
            )
            async with response:
                if response.status >= 400:
                    if response.status == 401:
                        await self._reload()
                    raise _refusal(response, await response.read())
                try:
                    yield response
                except BaseException:
                    response.close()
                    raise
        except (aiohttp.ClientError, OSError, TimeoutError, ssl.SSLError) as error:
            # aiohttp's timeouts have no text of their own.
            message = str(error) or f"no answer ({type(error).__name__})"
            raise ApiError(0, "Unreachable", f"the API server cannot be reached: {message}") from error

    async def _reload(self) -> None:
        """Our credentials have been replaced, or have expired: read them again."""
        if self._is_reloading:
            return
        self._is_reloading = True
        try:
            fresh = await _load_configuration()
            self._client.configuration.api_key = fresh.api_key
            self._client.configuration.refresh_api_key_hook = fresh.refresh_api_key_hook
        except OperatorError as error:
            _log.warning("%s", error)
        finally:
            self._is_reloading = False


@asynccontextmanager
async def connect() -> AsyncIterator[ApiServer]:
    """Open a client as $KUBECONFIG says, else with the pod's service account. Raises OperatorError."""
    # The generated client takes half a second to import: only where it is needed, and not on the event loop.
    await asyncio.to_thread(importlib.import_module, "kubernetes_asyncio.client")
    from kubernetes_asyncio.client import ApiClient

    async with ApiClient(await _load_configuration()) as client:
        _cut_what_is_given_up(client)
        try:
            yield ApiServer(client)
        finally:
            # Without waiting for the server's goodbyes, which a server that hangs would never say.
            connector = client.rest_client.pool_manager.connector
            if connector is not None:
                await connector.close(abort_ssl=True)


def _cut_what_is_given_up(client: "ApiClient") -> None:
    """Give the client a session as it made itself, but for the class of its responses."""
    made = client.rest_client.pool_manager
    client.rest_client.pool_manager = aiohttp.ClientSession(
        connector=made.connector, trust_env=True, read_bufsize=_READ_BYTES, response_class=_Response
    )
    made.detach()


async def _load_configuration() -> "Configuration":
    from kubernetes_asyncio.client import Configuration
    from kubernetes_asyncio.config import load_incluster_config, load_kube_config
    from kubernetes_asyncio.config.config_exception import ConfigException

    configuration = Configuration()
    file = os.environ.get("KUBECONFIG", "")
    try:
        if file:
            await load_kube_config(config_file=file, client_configuration=configuration, persist_config=False)
        else:
            await asyncio.to_thread(load_incluster_config, configuration)
    except (ConfigException, OSError, yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:
        if file:
            raise OperatorError(f"KUBECONFIG: {file} cannot be used: {error}") from error
        message = f"source: kubernetes needs KUBECONFIG, or a pod's service account ({_TOKEN}): {error}"
        raise OperatorError(message) from error
    return configuration


def _refusal(response: aiohttp.ClientResponse, body: bytes) -> ApiError:
    try:
        status = _status_decoder.decode(body)
    except msgspec.MsgspecError:
        status = Status(message=body[:200].decode("utf-8", "replace").strip())
    retry_after = response.headers.get("Retry-After", "")
    return ApiError(
        response.status,
        status.reason or response.reason or "",
        status.message,
        float(retry_after) if retry_after.isdigit() else 0.0,
    )


def _keep_alive(response: aiohttp.ClientResponse) -> None:
    """Let the kernel probe an idle stream, whose other end may be gone without having said so."""
    transport = response.connection.transport if response.connection else None
    found = transport.get_extra_info("socket") if transport else None
    if found is None or found.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with socket.socket(fileno=os.dup(found.fileno())) as duplicate:
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        duplicate.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_S)
        duplicate.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_S)
        duplicate.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_COUNT)
