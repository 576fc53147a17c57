"""The hosts in URLs, written so that they can be compared."""

import re

import pyarrow as pa
import pyarrow.compute as pc

# As the fetcher and browsers read a URL: spaces and control characters at its ends don't count, nor do line ends and
# tabs anywhere; a backslash is a slash, and what is before the last @ is user information.
_UNREAD = r"^[\x00-\x20]+|[\x00-\x20]+$|[\t\r\n]"
_HOST = r"^[a-zA-Z][a-zA-Z0-9+.-]*:[/\\]{2}(?:[^/\\?#]*@)?(?P<host>[^/\\?#@:\[\]]+)(?:[:/\\?#]|$)"

#: More than the domain name system allows in a label: some servers answer to every name below their own.
_LABEL = r"[^\x00-\x20./\\?#@:%\[\]\x7f-\U0010ffff]{1,63}"
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")
_MOST_CHARS = 253


def hosts(urls: pa.Array) -> pa.Array:
    """The host of each URL as it stands there, without user information and port; null where there is none.

    Addresses in brackets (IPv6) are not looked at: they have no domain.
    """
    urls = pc.replace_substring_regex(urls, _UNREAD, "")
    return pc.struct_field(pc.extract_regex(urls, _HOST), "host")


def canonical(host: str) -> str | None:
    """The host in lower case and in ASCII, so in punycode where it has other characters, and without a dot at its end.

    None where it is not a name that a host can have.
    """
    if len(host) > _MOST_CHARS + 1:
        return None
    if not host.isascii():
        import yarl  # the fetcher's; it takes time to import

        try:
            host = yarl.URL.build(scheme="http", host=host).raw_host or ""
        except ValueError:
            return None
    host = host.lower().removesuffix(".")
    return host if _NAME.fullmatch(host) else None


def with_parents(host: str) -> list[str]:
    """A canonical host, then each domain that it lies in: a.example.com, example.com, com. An IPv4 address has none."""
    labels = host.split(".")
    if labels[-1].isdecimal():
        return [host]
    return [".".join(labels[n:]) for n in range(len(labels))]
