"""The fetcher against real servers on this machine, well-behaved and otherwise."""

import asyncio
import contextlib
import errno
import pickle
import resource
import socket
import ssl
import threading
import time
import urllib.parse

import pytest
import trustme

from metadata.errors import CurateError
from pipeline import addresses, fetch
from pipeline.fetch import Fetched, fetch_all, opted_out, retry_after_s
from pipeline.options import FetchPolicy
from pipeline.statuses import STATUSES
from tests.hostile_server import HostileServer

A_NAME = "images.test"  # never in any DNS


@pytest.fixture
def server():
    with HostileServer() as server:
        yield server


@pytest.fixture
def other():
    """A server that no policy allows."""
    with HostileServer() as other:
        yield other


@pytest.fixture
def names(monkeypatch):
    """The outside world's answers to lookups: set names[host] to addresses, an error, or a function giving either."""
    answers, asked = {}, []

    def getaddrinfo(host, port, *args, **kwargs):
        asked.append(host.decode())
        answer = answers[host.decode()]
        answer = answer() if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        return [(socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 0)) for a in answer]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    answers["asked"] = asked
    return answers


def policy(server, **changes):
    defaults = {"allow_hosts": frozenset({server.address}), "timeout_s": 5.0, "backoff_s": 0.02}
    return FetchPolicy(**{**defaults, **changes})


def fetched(urls, policy):
    """Outcomes in the order of the URLs, having checked that each has one."""
    seen = list(fetch_all(urls, policy))
    assert sorted(index for index, _ in seen) == list(range(len(urls)))
    outcomes = [outcome for _, outcome in sorted(seen, key=lambda pair: pair[0])]
    assert all(o.status in STATUSES and (o.status == "ok" or o.body == b"") for o in outcomes)
    return outcomes


def fetch_one(server, path, **changes):
    return fetched([server.url(path)], policy(server, **changes))[0]


@contextlib.contextmanager
def seconds(at_least=0.0, at_most=60.0):
    start = time.monotonic()
    yield
    assert at_least <= time.monotonic() - start <= at_most


# What arrives.


def test_bodies_arrive_whole(server):
    server.files = {f"/{i}.jpg": bytes([i]) * (i * 40_000) for i in range(30)}
    outcomes = fetched([server.url(path) for path in server.files], policy(server))
    assert outcomes == [Fetched("ok", 1, body) for body in server.files.values()]


def test_nothing_to_fetch():
    assert list(fetch_all([], FetchPolicy())) == []


def test_an_empty_body_is_for_the_image_step_to_judge(server):
    server.files["/empty"] = b""
    assert fetch_one(server, "/empty") == Fetched("ok", 1, b"")


def test_a_body_that_ends_with_the_connection_is_whole(server):
    assert fetch_one(server, "/until-close") == Fetched("ok", 1, b"whole")


def test_a_large_body_without_a_length(server):
    assert len(fetch_one(server, "/sized?bytes=6000000&chunked=1").body) == 6_000_000


@pytest.mark.parametrize(
    ("path", "target"),
    [("/echo/Köln.jpg", "/echo/K%C3%B6ln.jpg"), ("/echo/my cat.jpg?a b", "/echo/my%20cat.jpg?a%20b")],
)
def test_urls_that_are_not_ascii(server, path, target):
    assert fetch_one(server, path).body.decode().split("\n")[0] == target


def test_an_internationalised_host(server):
    plan = FetchPolicy(resolve=(("xn--bcher-kva.test", "127.0.0.1", server.port),))
    (outcome,) = fetched(["http://bücher.test/echo"], plan)
    assert b"host: xn--bcher-kva.test" in outcome.body


def test_what_a_request_says(server):
    said = fetch_one(server, "/echo").body.decode()
    assert "user-agent: Mozilla/5.0 (compatible; clip-curate; image-text data curation" in said
    assert "accept-encoding: identity" in said
    assert "cookie" not in said


def test_cookies_are_not_kept(server):
    plan = policy(server, per_host=1)
    assert [o.body for o in fetched([server.url("/cookie")] * 3, plan)] == [b"none"] * 3


def test_connections_are_reused(server):
    server.files["/a"] = b"a" * 1000
    assert all(o.status == "ok" for o in fetched([server.url("/a")] * 60, policy(server, per_host=4)))
    assert server.connections <= 4


def test_a_content_coding_is_not_undone(server):
    outcome = fetch_one(server, "/gzip-bomb", max_bytes=1_000_000)
    assert outcome.status == "ok"
    assert len(outcome.body) < 100_000


def test_every_hostile_server_ends_as_a_status(server, caplog):
    expected = {
        **dict.fromkeys(["/endless", "/endless-chunks", "/huge"], "too_large"),
        **dict.fromkeys(["/silent", "/drip", "/drip-headers", "/endless-continue"], "timeout"),
        **dict.fromkeys(["/reset", "/reset-in-body", "/hang-up", "/endless-headers"], "connection_failed"),
        **dict.fromkeys(["/truncated", "/truncated-chunks"], "connection_failed"),
        "/loop": "too_many_redirects",
        "/missing": "http_4xx",
    }
    with seconds(at_most=3):
        outcomes = fetched([server.url(p) for p in expected], policy(server, timeout_s=1, max_bytes=1_000_000))
    assert dict(zip(expected, (o.status for o in outcomes), strict=True)) == expected
    assert not caplog.records  # nor does it fill the log
    assert server.sent["/endless"] < 20_000_000


def test_a_header_as_long_as_policies_are(server):
    server.raw = [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Security-Policy: " + b"a" * 60_000 + b"\r\n\r\nx"]
    assert fetch_one(server, "/raw/0") == Fetched("ok", 1, b"x")


NOT_HTTP = [
    *(b"", b"\r\n\r\n", b"garbage\r\n\r\n", b"SSH-2.0-OpenSSH_9\r\n"),
    *(b"HTTP/1.1 nope OK\r\n\r\n", b"HTTP/9.9 200\r\n\r\n"),
    *(b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 20000000000000000000 OK\r\n\r\n"),
    b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70_000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"A: a\r\n" * 20_000 + b"\r\n",
    *(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"HTTP/1.1 200 OK\r\n\x00\r\n\r\n"),
    *(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
]


def test_what_is_not_http_is_a_failed_connection(server):
    server.raw = NOT_HTTP
    outcomes = fetched([server.url(f"/raw/{i}") for i in range(len(NOT_HTTP))], policy(server))
    assert [o.status for o in outcomes] == ["connection_failed"] * len(NOT_HTTP)


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    plan = FetchPolicy(allow_hosts=frozenset({"127.0.0.1"}), backoff_s=0.01)
    assert fetched([f"http://127.0.0.1:{port}/"], plan) == [Fetched("connection_failed", 3)]


# What may be contacted.


def test_what_is_no_http_url_is_not_contacted(server):
    urls = [None, "", " ", "cat", f"ftp://{server.address}/", "file:///etc/passwd", f"//{server.address}/"]
    urls += ["data:image/png;base64,AAAA", "javascript:0", f"http://name:pass@{server.address}/", "http://a:b/"]
    urls += [server.url("/" + "a" * 9999)]
    assert fetched(urls, policy(server)) == [Fetched("bad_url", 0)] * len(urls)
    assert server.connections == 0


THIS_MACHINE = ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0", "localhost", "[::ffff:127.0.0.1]"]


@pytest.mark.parametrize("host", THIS_MACHINE)
def test_addresses_of_this_machine_are_not_contacted(other, host):
    assert fetched([other.url("/", host)], FetchPolicy()) == [Fetched("forbidden_address", 0)]
    assert other.connections == 0


def test_an_allowed_host_is_allowed_just_as_written(server, other):
    server.files["/"] = other.files["/"] = b"x"
    urls = [server.url("/"), server.url("/", "localhost"), other.url("/")]

    def allowing(*hosts):
        return [o.status for o in fetched(urls, FetchPolicy(allow_hosts=frozenset(hosts)))]

    assert allowing(server.address) == ["ok", "forbidden_address", "forbidden_address"]
    assert allowing("localhost") == ["forbidden_address", "ok", "forbidden_address"]
    assert other.connections == 0
    assert allowing("127.0.0.1") == ["ok", "forbidden_address", "ok"]


def has_ipv6():
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine")
def test_an_allowed_ipv6_address_is_written_in_brackets():
    with HostileServer("::1") as server:
        server.files["/"] = b"x"
        url, allowed = server.url("/", "[::1]"), ["[::1]", f"[::1]:{server.port}", "::1"]
        statuses = [fetched([url], FetchPolicy(allow_hosts=frozenset({host})))[0].status for host in allowed]
    assert statuses == ["ok", "ok", "forbidden_address"]


def test_one_private_address_among_public_ones_is_enough(names):
    names.update({"mixed.test": ["93.184.216.34", "10.0.0.1"], "six.test": ["2606:4700::1", "::1"]})
    assert fetched(["http://mixed.test/", "http://six.test/"], FetchPolicy()) == [Fetched("forbidden_address", 0)] * 2


@pytest.mark.parametrize("ttl_s", [60.0, 0.0])
def test_a_name_that_changes_its_address_gains_nothing(names, monkeypatch, ttl_s):
    """127.0.0.2 plays a public address; all lookups but the first say 127.0.0.1, where the same port is served, too."""
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.2")
    monkeypatch.setattr(addresses, "DNS_TTL_S", ttl_s)
    answers = iter([["127.0.0.2"]])
    names["rebind.test"] = lambda: next(answers, ["127.0.0.1"])
    with HostileServer("127.0.0.2") as public, HostileServer("127.0.0.1", public.port) as private:
        public.files["/"] = b"public"
        statuses = {o.status for o in fetched([public.url("/", "rebind.test")] * 5, FetchPolicy(per_host=1))}
        assert private.connections == 0
        assert public.requests["/"] == (5 if ttl_s else 1)
    assert statuses == ({"ok"} if ttl_s else {"ok", "forbidden_address"})


def test_the_environment_names_no_proxy(server, other, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, other.url("/"))
    server.files["/"] = b"x"
    assert fetch_one(server, "/").status == "ok"
    assert other.connections == 0


def test_a_resolved_host_needs_no_lookup(server, names):
    server.files["/a"] = b"a"
    plan = FetchPolicy(resolve=((A_NAME, "127.0.0.1", server.port),))
    assert fetched([f"http://{A_NAME}/a", f"http://{A_NAME}:81/a"], plan) == [Fetched("ok", 1, b"a")] * 2
    assert names["asked"] == []


# Names.


def test_a_name_is_looked_up_once(server, names):
    server.files["/"] = b"x"
    names[A_NAME] = ["127.0.0.1"]
    fetched([server.url("/", A_NAME)] * 50, policy(server, allow_hosts=frozenset({A_NAME})))
    assert names["asked"] == [A_NAME]


def test_a_name_that_does_not_exist(names):
    names[A_NAME] = socket.gaierror(socket.EAI_NONAME, "no such name")
    assert fetched([f"http://{A_NAME}/"], FetchPolicy()) == [Fetched("unknown_host", 0)]
    assert names["asked"] == [A_NAME]


def test_a_name_server_that_fails_for_a_while(server, names):
    failures = iter([socket.gaierror(socket.EAI_AGAIN, "try again")] * 2)
    names[A_NAME] = lambda: next(failures, ["127.0.0.1"])
    server.files["/"] = b"x"
    plan = policy(server, allow_hosts=frozenset({A_NAME}))
    assert fetched([server.url("/", A_NAME)], plan) == [Fetched("ok", 1, b"x")]
    names[A_NAME] = socket.gaierror(socket.EAI_AGAIN, "try again")
    assert fetched([server.url("/", A_NAME)], plan) == [Fetched("unknown_host", 0)]
    assert len(names["asked"]) == 6


def test_a_name_that_nobody_could_be_asked_for_is_not_unknown(server, names):
    failures = iter([OSError(errno.ENOMEM, "no memory")] * 2)
    names[A_NAME] = lambda: next(failures, ["127.0.0.1"])
    server.files["/"] = b"x"
    plan = policy(server, allow_hosts=frozenset({A_NAME}))
    assert fetched([server.url("/", A_NAME)], plan) == [Fetched("ok", 1, b"x")]
    names[A_NAME] = OSError(errno.EMFILE, "too many open files")
    with pytest.raises(CurateError, match="may not open as many files"):
        fetched([server.url("/", A_NAME)], plan)


def test_a_name_server_that_does_not_answer(server, names):
    server.files["/"] = b"x"
    answered = threading.Event()
    names["mute.test"] = lambda: answered.wait(10) * ["127.0.0.1"]
    with seconds(at_most=1.5):
        outcomes = fetched(["http://mute.test/", server.url("/")], policy(server, timeout_s=0.5))
    answered.set()
    assert [o.status for o in outcomes] == ["timeout", "ok"]


def test_a_lookup_outlives_the_url_that_began_it(server, names):
    names[A_NAME] = lambda: time.sleep(0.7) or ["127.0.0.1"]
    server.files["/"] = b"x"
    plan = policy(server, allow_hosts=frozenset({A_NAME}), per_host=1, timeout_s=0.5)
    assert [o.status for o in fetched([server.url("/", A_NAME)] * 2, plan)] == ["timeout", "ok"]
    assert names["asked"] == [A_NAME]


# Redirects.


def chain(length, end):
    """A path that is redirected `length` times on its way to `end`."""
    for _ in range(length):
        end = "/redirect?" + urllib.parse.urlencode({"to": end})
    return end


def test_redirects_are_followed_but_not_many(server):
    server.files["/cat.jpg"] = b"cat"
    assert fetch_one(server, chain(5, "/cat.jpg")) == Fetched("ok", 1, b"cat")
    assert fetch_one(server, chain(6, "/cat.jpg")) == Fetched("too_many_redirects", 1)
    assert server.requests["/redirect"] == 11
    assert fetch_one(server, "/loop", max_redirects=2) == Fetched("too_many_redirects", 1)
    assert server.requests["/loop"] == 3


@pytest.mark.parametrize("host", THIS_MACHINE)
def test_a_redirect_to_a_private_address_is_not_followed(server, other, host):
    assert fetch_one(server, chain(2, other.url("/", host))) == Fetched("forbidden_address", 1)
    assert other.connections == 0


@pytest.mark.parametrize("to", ["file:///etc/passwd", "data:,x", "ftp://a.test/", "http://u:p@a.test/", "http://["])
def test_a_redirect_to_something_else_is_not_followed(server, to):
    assert fetch_one(server, chain(1, to)) == Fetched("bad_url", 1)


# TLS.


@pytest.fixture
def authority(monkeypatch, tmp_path):
    """A certificate authority that this machine trusts during the test."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return authority


def https_server(authority, name):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return HostileServer(tls=context)


def test_https_with_one_context_for_all(authority, monkeypatch):
    made = []
    create = ssl.create_default_context
    with https_server(authority, A_NAME) as server:
        monkeypatch.setattr(ssl, "create_default_context", lambda: made.append(create()) or made[-1])
        server.files["/"] = b"x" * 300_000
        plan = FetchPolicy(resolve=((A_NAME, "127.0.0.1", server.port),), per_host=2)
        assert {o.status for o in fetched([f"https://{A_NAME}/"] * 20, plan)} == {"ok"}
        assert fetched([f"https://{A_NAME}/truncated"], plan)[0].status == "connection_failed"
        assert server.connections <= 2 + 3
    assert len(made) == 2  # one for each call


def test_tls_failures_are_final(authority, server):
    strangers = trustme.CA()
    plan = policy(server, allow_hosts=frozenset({"127.0.0.1"}))
    with https_server(authority, "other.test") as wrong_name, https_server(strangers, "127.0.0.1") as unknown:
        urls = [wrong_name.url("/"), unknown.url("/"), f"https://{server.address}/"]
        assert fetched(urls, plan) == [Fetched("tls_failed", 1)] * 3
        assert wrong_name.requests.total() == unknown.requests.total() == 0


# Tries.


def test_another_try_where_it_can_help(server):
    urls = [server.url(f"/flaky/{code}?code={code}&times=2") for code in (408, 429, 500, 502, 503, 504)]
    assert fetched(urls, policy(server)) == [Fetched("ok", 3, b"at last")] * 6


def test_another_try_after_a_reset(server):
    """aiohttp asks twice in one try."""
    assert fetch_one(server, "/flaky?code=0&times=4") == Fetched("ok", 3, b"at last")


@pytest.mark.parametrize(
    ("path", "status", "tries"),
    [
        ("/status?code=400", "http_4xx", 1),
        ("/status?code=403", "http_4xx", 1),
        ("/status?code=404", "http_4xx", 1),
        ("/status?code=410", "http_4xx", 1),
        ("/status?code=429", "http_4xx", 3),
        ("/status?code=500", "http_5xx", 3),
        ("/robots?tag=noai", "opted_out", 1),
        ("/huge", "too_large", 1),
        ("/loop", "too_many_redirects", 1),
        ("/truncated", "connection_failed", 3),
        ("/hang-up", "connection_failed", 3),
    ],
)
def test_how_often_is_tried(server, path, status, tries):
    assert fetch_one(server, path, max_redirects=0) == Fetched(status, tries)
    repeats = 2 if path == "/hang-up" else 1  # aiohttp's own
    assert server.requests[path.partition("?")[0]] == repeats * tries


def test_a_silent_try_leaves_time_for_others(server):
    with seconds(0.9, 1.6):
        assert fetch_one(server, "/silent", timeout_s=1.2) == Fetched("timeout", 3)


def test_progress_is_not_cut_short_by_the_limit_of_a_try(server):
    """It drips more often than timeout_s / attempts, so that only the deadline ends it."""
    with seconds(0.8, 1.5):
        assert fetch_one(server, "/drip", timeout_s=0.9) == Fetched("timeout", 1)


def test_pauses_grow(server):
    with seconds(0.3 * 0.5 + 0.6 * 0.5, 0.3 * 1.5 + 0.6 * 1.5 + 0.5):
        assert fetch_one(server, "/status?code=500", backoff_s=0.3).attempts == 3


def test_retry_after_is_honoured_within_the_deadline(server):
    with seconds(at_least=1, at_most=2):
        assert fetch_one(server, "/flaky?code=503&times=1&header=Retry-After:+1") == Fetched("ok", 2, b"at last")
    with seconds(at_most=1):
        assert fetch_one(server, "/status?code=503&header=Retry-After:+60") == Fetched("http_5xx", 1)


def test_retry_after_is_seconds_or_a_date():
    assert retry_after_s("120") == 120.0
    assert 55 < retry_after_s(time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))) <= 60
    for nothing in (None, "", "-5", "soon", "²", "Wed, 21 Oct 2015 07:28:00 GMT", "Mon, 99 Foo 99999 99:99:99 GMT"):
        assert retry_after_s(nothing) == 0.0
    assert retry_after_s("9" * 6000) == float("inf")


# Opt-outs.


@pytest.mark.parametrize(
    ("tag", "forbidden"),
    [
        *(("noai", True), ("NoImageAI", True), ("noindex", True), ("noimageindex , nofollow", True)),
        *(("nofollow", False), ("all", False), ("", False), ("none", False), ("noaib", False)),
        *(("clip-curate: noai", True), ("Clip-Curate: nofollow, noindex", True), ("otherbot: noai, noindex", False)),
        *(("otherbot: noai, clip-curate: noindex", True), ("noindex, otherbot: nofollow", True)),
        *(("unavailable_after: 25 Jun 2030 15:00:00 PST", False), ("noindex, unavailable_after: 1 Jan 2030", True)),
        *(("unavailable_after: Fri, 25 Jun 2030 15:00:00 GMT, noai", True), ("otherbot: max-snippet: 5, noai", False)),
        *(("max-snippet: 5, noai", True), (":::,,:noai", False), ("\udcff: noai", False)),
    ],
)
def test_opted_out(tag, forbidden):
    assert opted_out([tag], "clip-curate") == forbidden
    assert opted_out(["nofollow", tag], "clip-curate") == forbidden
    assert not opted_out([], "clip-curate")


def test_an_opt_out_is_heard_before_the_body(server):
    """These bodies never come."""
    with seconds(at_most=1):
        assert fetch_one(server, "/robots?tag=noai") == Fetched("opted_out", 1)
        assert fetch_one(server, "/robots?tag=all;otherbot:+x;noimageai") == Fetched("opted_out", 1)
    assert server.requests["/robots"] == 2
    assert fetch_one(server, "/robots?ok=1&tag=otherbot:+noai") == Fetched("ok", 1, b"body")


# Limits.


def test_the_cap_is_for_the_whole_body(server):
    cap = 100_000
    for chunked in ("", "&chunked=1"):
        assert fetch_one(server, f"/sized?bytes={cap}{chunked}", max_bytes=cap).status == "ok"
        assert fetch_one(server, f"/sized?bytes={cap + 1}{chunked}", max_bytes=cap).status == "too_large"


def test_requests_at_once(server):
    plan = FetchPolicy(
        resolve=tuple((f"{host}.test", "127.0.0.1", server.port) for host in "abcdef"), concurrency=9, per_host=2
    )
    urls = [f"http://{host}.test/slow?s=0.05" for host in "abcdef" for _ in range(6)]
    assert {o.status for o in fetched(urls, plan)} == {"ok"}
    assert {server.busiest[f"{host}.test"] for host in "abcdef"} == {2}
    assert server.busiest["*"] == 9


def test_a_slow_host_does_not_hold_up_others(server):
    plan = FetchPolicy(
        resolve=(("slow.test", "127.0.0.1", server.port), ("fast.test", "127.0.0.1", server.port)),
        concurrency=8,
        per_host=4,
    )
    server.files["/a"] = b"a"
    urls = ["http://slow.test/slow?s=0.7"] * 8 + ["http://fast.test/a"] * 40
    order = [index for index, _ in fetch_all(urls, plan)]
    assert set(order[:40]) == set(range(8, 48))


def test_waiting_for_ones_turn_is_not_charged(server):
    outcomes = fetched([server.url("/slow?s=0.2")] * 8, policy(server, per_host=1, timeout_s=0.7, attempts=1))
    assert {o.status for o in outcomes} == {"ok"}


def test_downloads_go_on_while_the_consumer_works(server):
    results = fetch_all([server.url("/slow?s=0.1")] * 12, policy(server, per_host=4))
    next(results)
    time.sleep(0.8)
    assert server.requests["/slow"] == 12
    assert len(list(results)) == 11


@pytest.mark.parametrize("chunked", ["", "&chunked=1"])
def test_a_slow_consumer_holds_up_the_downloads(server, chunked):
    """Room for 2 * 256 KiB + 2 MB is room for two bodies of 1 MB and a start. The wait exceeds every time limit."""
    plan = policy(server, concurrency=2, max_bytes=2_000_000, timeout_s=0.8, attempts=1)
    results = fetch_all([server.url(f"/sized?bytes=1000000{chunked}")] * 20, plan)
    outcomes = [next(results)[1]]
    time.sleep(1.2)
    assert server.requests["/sized"] <= 5
    outcomes += [outcome for _, outcome in results]
    assert {(o.status, o.attempts, len(o.body)) for o in outcomes} == {("ok", 1, 1_000_000)}
    assert len(outcomes) == 20


@pytest.mark.parametrize("concurrency", [1, 3])
def test_large_bodies_do_not_wait_for_each_other_for_ever(server, concurrency):
    plan = policy(server, concurrency=concurrency, max_bytes=5_000_000)
    sizes = ("300000", "5000000", "300000&chunked=1", "5000000&chunked=1")
    assert {o.status for o in fetched([server.url(f"/sized?bytes={size}") for size in sizes] * 5, plan)} == {"ok"}


# The thread.


def fetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == "fetch"]


def test_closing_early_ends_everything(server, caplog):
    server.files["/a"] = b"a"
    results = fetch_all([server.url("/a")] + [server.url(p) for p in ("/silent", "/drip", "/a")] * 50, policy(server))
    assert next(results)[1].status == "ok"
    with seconds(at_most=1):
        results.close()
    assert not fetch_threads()
    assert not caplog.records


def test_an_exception_in_the_consumer_ends_everything(server):
    results = fetch_all([server.url("/missing")] + [server.url("/silent")] * 50, policy(server))

    def consume(results):
        for _ in results:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        consume(results)
    del results
    assert not fetch_threads()


def test_an_unexpected_exception_reaches_the_consumer(server, monkeypatch):
    def broken(*_):
        raise RuntimeError("a mistake in here")

    monkeypatch.setattr(fetch, "opted_out", broken)
    server.files["/a"] = b"a"
    with pytest.raises(RuntimeError, match="a mistake in here"), seconds(at_most=2):
        list(fetch_all([server.url("/silent"), server.url("/a"), None], policy(server)))
    assert not fetch_threads()


def test_a_lost_url_is_noticed(server, monkeypatch):
    async def lost(*_):
        raise asyncio.CancelledError

    monkeypatch.setattr(fetch._Fetcher, "_request", lost)
    with pytest.raises(RuntimeError, match="2 URLs were given, but 1 have an outcome"):
        list(fetch_all([server.url("/"), None], policy(server)))


def test_running_out_of_files_is_not_blamed_on_the_links():
    """The sockets connect, since nobody needs to accept for that, and nothing is ever answered."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.create_server(("127.0.0.1", 0), backlog=200) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/"
        plan = FetchPolicy(allow_hosts=frozenset({"127.0.0.1"}), concurrency=100, per_host=100)
        resource.setrlimit(resource.RLIMIT_NOFILE, (mute.fileno() + 40, hard))
        try:
            with pytest.raises(CurateError, match=r"100 requests at once .* Raise its limit \(ulimit -n\)"):
                list(fetch_all([url] * 100, plan))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_many_links_on_many_hosts(server):
    server.files["/a"] = b"a" * 5000
    plan = FetchPolicy(resolve=tuple((f"h{i}.test", "127.0.0.1", server.port) for i in range(300)))
    outcomes = fetched([f"http://h{i % 300}.test/a" for i in range(1500)], plan)
    assert {o.status for o in outcomes} == {"ok"}


def test_a_policy_travels_to_workers():
    plan = FetchPolicy(allow_hosts=frozenset({"[::1]:80"}), resolve=(("a.test", "127.0.0.1", 80),))
    assert pickle.loads(pickle.dumps(plan)) == plan


@pytest.mark.parametrize("name", ["concurrency", "per_host", "max_bytes", "timeout_s", "attempts"])
def test_a_limit_of_nothing_is_refused(name):
    with pytest.raises(CurateError, match=f"fetching: {name} is 0, but it must be more than 0"):
        FetchPolicy(**{name: 0})
