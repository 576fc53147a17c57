"""Hosts in URLs: found as the fetcher finds them, whatever stands around them, and written in one form."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metadata import domains
from pipeline.addresses import Refused, parse_url

HOSTS = [
    ("http://example.com/a.jpg", "example.com"),
    ("HTTPS://WWW.Example.COM", "www.example.com"),
    ("http://user:p@ss@example.com:8080/x", "example.com"),
    ("http://example.com.:80/x", "example.com"),
    ("http://example.com?x=http://other.org/", "example.com"),
    ("http://example.com#@other.org", "example.com"),
    ("http://example.com\\@other.org/", "example.com"),
    ("http:\\\\example.com/", "example.com"),
    (" \x00\n http://exa\tmple.com/", "example.com"),
    ("ftp://example.com/", "example.com"),
    ("http://bücher.example/", "xn--bcher-kva.example"),
    ("http://BÜCHER.example/", "xn--bcher-kva.example"),
    ("http://bu\u0308cher.example/", "xn--bcher-kva.example"),
    ("http://XN--bcher-KVA.example/", "xn--bcher-kva.example"),
    ("http://例え。テスト/", "xn--r8jz45g.xn--zckzah"),
    ("http://a_b.example/", "a_b.example"),
    ("http://127.0.0.1:80/", "127.0.0.1"),
    ("http://[2001:db8::1]/", None),
    ("http://[example.com/", None),
    ("http://example.com]/", None),
    ("http://exam%70le.com/", None),
    ("http://a..b/", None),
    ("http:///example.com", None),
    ("//example.com/", None),
    ("example.com/x.jpg", None),
    ("http://" + "a" * 64 + ".com/", None),
    ("http://" + "ü" * 254 + "/", None),
    ("http://" + "a." * 200 + "com/", None),
    ("http://xn--é.com/", None),
    ("data:image/png;base64,AAAA", None),
    ("", None),
    (None, None),
]


def host(url: str | None) -> str | None:
    (found,) = domains.hosts(pa.array([url], pa.string())).to_pylist()
    return found and domains.canonical(found)


@pytest.mark.parametrize(("url", "expected"), HOSTS)
def test_the_host_of_a_url(url: str | None, expected: str | None) -> None:
    assert host(url) == expected


PARTS = st.sampled_from(["http://", "https:", "//", "\\", "/", "@", ":", "80", "?", "#", "[", "]", "%41", ".", "a", "B",
                         "ü", "-", "_", " ", "\t", "\n", "\x00", "\u200b", "。", "1", "com", "xn--"])  # fmt: skip


@given(st.lists(PARTS, max_size=12).map("".join) | st.text(max_size=40).map("http://".__add__))
def test_a_url_that_is_fetched_has_the_host_that_it_is_fetched_from(url: str) -> None:
    try:
        fetched = parse_url(url).raw_host or ""
    except Refused:
        host(url)  # it may be anything, but nothing is raised
        return
    if ":" not in fetched and not fetched.rpartition(".")[2][:1].isdecimal():
        assert host(url) == fetched


def test_the_domains_that_a_host_lies_in() -> None:
    assert domains.with_parents("a.b.example.com") == ["a.b.example.com", "b.example.com", "example.com", "com"]
    assert domains.with_parents("localhost") == ["localhost"]
    assert domains.with_parents("127.0.0.1") == ["127.0.0.1"]
