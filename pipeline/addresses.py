"""Which URLs and addresses may be contacted.

A pool's links are hostile, and so are the name servers that answer for them and the redirects they lead to. A URL is
taken apart once, here, and what was checked is what is connected to.
"""

import asyncio
import concurrent.futures
import ipaddress
import re
import socket
import urllib.parse

import yarl
from aiohttp.abc import AbstractResolver, ResolveResult

MAX_URL_CHARS = 8192
DNS_TTL_S = 60.0

# What browsers leave alone in a path and in a query (WHATWG URL): percent signs stay, so escapes are kept as they are.
_PATH_SAFE = "!$%&'()*+,/:;=@[\\]|"
_QUERY_SAFE = "!$%&()*+,/:;=?@[\\]^`{|}"
_TRIMMED = "".join(map(chr, range(0x21)))
_NUMBER = re.compile(r"(\d+|0x[0-9a-f]*)", re.ASCII)

_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Global by their registries, but they lead inside: tunnels to any IPv4 address (6to4, Teredo), protocol assignments
# and 6to4 relays, and the address at which one large cloud answers its own machines.
_INWARD = [
    ipaddress.ip_network(n) for n in ("2002::/16", "2001::/32", "192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")
]


class Refused(Exception):
    """A URL that is not contacted: the `status` to record, and whether another try can help."""

    def __init__(self, status: str, retry: bool = False):
        super().__init__(status)
        self.status = status
        self.retry = retry


def parse_url(text: str | None, base: yarl.URL | None = None) -> yarl.URL:
    """`text` as it is sent: trimmed, the host in ASCII, everything else percent-encoded where a browser would do so.

    Internationalised hosts become punycode and numeric hosts (2130706433, 0x7f.1, 127.1) the address they stand for.
    Existing escapes are not touched, signed URLs depend on them. The fragment goes. Unlike in a browser, `/./` and
    `/../` stay in the path of an absolute URL, as img2dataset sends them.

    Args:
        text: A URL, or what a Location header holds.
        base: What a relative `text` is relative to; without it `text` must be absolute.

    Raises:
        Refused: bad_url, for null, anything but http and https, no host, port 0, more than 8,192 characters, and user
            information (name:password@host is somebody's credential, and was not given to us).
    """
    if not isinstance(text, str) or len(text) > MAX_URL_CHARS:
        raise Refused("bad_url")
    try:
        text = text.strip(_TRIMMED).partition("#")[0]
        before, mark, query = text.partition("?")
        text = before.replace("\\", "/") + mark + query
        parts = urllib.parse.urlsplit(urllib.parse.urljoin(str(base), text) if base else text)
        if parts.scheme not in ("http", "https") or "@" in parts.netloc or parts.port == 0:
            raise Refused("bad_url")
        origin = yarl.URL.build(scheme=parts.scheme, host=_host(parts.hostname or ""), port=parts.port)
        path = urllib.parse.quote(parts.path or "/", _PATH_SAFE, errors="surrogateescape")
        query = urllib.parse.quote(parts.query, _QUERY_SAFE, errors="surrogateescape")
        return yarl.URL(f"{origin}{path}{'?' if query else ''}{query}", encoded=True)
    except ValueError:
        raise Refused("bad_url") from None


def _host(name: str) -> str:
    """`name` in ASCII, an IPv4 address in its one canonical form; ValueError where it can't be a host."""
    if ":" in name:
        return str(ipaddress.IPv6Address(name))
    host = yarl.URL.build(scheme="http", host=name).raw_host or ""
    host = host.removesuffix(".")
    labels = host.split(".")
    if "%" in host or len(host) > 253 or not all(0 < len(label) < 64 for label in labels):
        raise ValueError(name)
    if not _NUMBER.fullmatch(labels[-1]):
        return host
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        raise ValueError(name) from None


def is_public(address: str) -> bool:
    """Whether the IP address is one of the public internet, and not a way round to one that isn't.

    Private, loopback, link-local, shared, reserved and multicast addresses are not. An IPv6 address that stands for an
    IPv4 address (mapped, NAT64) is judged by that one; one that tunnels to it (6to4, Teredo, compatible) is refused.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        elif ip in _NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        elif ip not in _UNICAST or ip.scope_id:
            return False
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _INWARD)


def look_up(host: str) -> list[str]:
    """Every address of `host`, without repeats, in the system's order of preference; blocks."""
    found = socket.getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


class Addresses(AbstractResolver):
    """Looks a name up once, checks every address it has, and hands aiohttp only what was checked.

    There is no second lookup between check and connection, so a name server that changes its answer gains nothing.
    Answers are kept for a minute within a run. Belongs to the event loop that it is used in.

    Args:
        allow_hosts: "host" or "host:port" (IPv6 as "[::1]"), in lower case: exempt from the check, just as written.
        resolve: (host, ip, port): a host that is answered by this address and port, without lookup and check.
        threads: Lookups at once.
    """

    def __init__(self, allow_hosts: frozenset[str], resolve: tuple[tuple[str, str, int], ...], threads: int):
        self._allow_hosts = allow_hosts
        self._fixed = {host: (ip, port) for host, ip, port in resolve}
        self._checked: dict[tuple[str, int], list[ResolveResult]] = {}
        self._lookups: dict[str, tuple[float, asyncio.Future[list[str]]]] = {}
        self._threads = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="dns")

    async def check(self, url: yarl.URL) -> None:
        """Returns when `url` may be contacted.

        Raises:
            Refused: forbidden_address, if any of its host's addresses is not public; unknown_host, if it has none.
            OSError: nobody could be asked, for example because this process may not open more files.
        """
        host, port = url.raw_host or "", url.port or 0
        if host in self._fixed:
            ip, port_there = self._fixed[host]
            self._checked[host, port] = _results(host, [ip], port_there)
            return
        addresses = [host] if _is_literal(host) else await self._look_up(host)
        shown = f"[{host}]" if ":" in host else host
        allowed = shown in self._allow_hosts or f"{shown}:{port}" in self._allow_hosts
        if not allowed and not all(map(is_public, addresses)):
            raise Refused("forbidden_address")
        self._checked[host, port] = _results(host, addresses, port)

    async def _look_up(self, host: str) -> list[str]:
        loop = asyncio.get_running_loop()
        until, lookup = self._lookups.get(host, (0.0, None))
        if lookup is None or until < loop.time():
            lookup = loop.run_in_executor(self._threads, look_up, host)
            self._lookups[host] = (loop.time() + DNS_TTL_S, lookup)
        try:
            # Shielded, because others may wait for the same answer when this URL's time is over.
            return await asyncio.shield(lookup)
        except socket.gaierror as error:
            temporary = error.errno in (socket.EAI_AGAIN, socket.EAI_MEMORY)
            if temporary:
                self._lookups.pop(host, None)
            raise Refused("unknown_host", retry=temporary) from None
        except OSError:
            self._lookups.pop(host, None)
            raise

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """What aiohttp connects to: the addresses that `check` passed last for this host and port."""
        return self._checked[host, port]

    async def close(self) -> None:
        """Gives up lookups under way; their threads end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _is_literal(host: str) -> bool:
    return ":" in host or bool(_NUMBER.fullmatch(host.rpartition(".")[2]))


def _results(host: str, addresses: list[str], port: int) -> list[ResolveResult]:
    return [
        ResolveResult(
            hostname=host,
            host=address,
            port=port,
            family=socket.AF_INET6 if ":" in address else socket.AF_INET,
            proto=socket.IPPROTO_TCP,
            flags=socket.AI_NUMERICHOST,
        )
        for address in addresses
    ]
