"""From URLs to bytes: an asyncio loop in a thread of its own downloads while the caller works on what has arrived.

No server can hang it, fill the memory or lead it to an address inside its own network. Every URL gets an outcome.
"""

import asyncio
import collections
import dataclasses
import email.utils
import errno
import queue
import random
import ssl
import threading
import time
from collections.abc import Awaitable, Generator, Iterable, Sequence

import aiohttp
import yarl

from metadata.errors import CurateError
from pipeline.addresses import Addresses, Refused, parse_url
from pipeline.options import FetchPolicy
from pipeline.statuses import OK

OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex"})
# Directives of the form `name: value`, which are no tokens.
WITH_VALUES = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
# Of one line, as Python's own http client takes it: policies of several kB are met in the wild.
MAX_HEADER_BYTES = 64 * 1024
REDIRECTS = frozenset({301, 302, 303, 307, 308})
RETRIED_4XX = frozenset({408, 429})
# Room for a body in memory: what every request under way has, and what one of undeclared length is given beyond that.
SMALL_BYTES = 256 * 1024
LARGE_BYTES = 4 * 1024 * 1024
# Idle connections count against the open files of the process, and most hosts of a pool are met once.
KEEP_ALIVE_S = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Fetched:
    """What became of one URL.

    Args:
        status: "ok", or one of those that `pipeline.statuses` lists for the link.
        attempts: Tries in which a server was contacted, 0 if none was. Redirects belong to their try, and so does the
            one repeat that aiohttp makes by itself when a connection breaks before the answer.
        body: As it was sent, no content coding undone; empty unless ok. An empty body can be ok: it is no image, which
            is for whoever decodes it to say.
    """

    status: str
    attempts: int
    body: bytes = b""


def fetch_all(urls: Sequence[str | None], policy: FetchPolicy) -> Generator[tuple[int, Fetched], None, None]:
    """Each URL's index and outcome, in the order they finish; every index exactly once.

    Downloads go on while the caller handles a result, until the bodies that were not yet asked for and those under way
    fill `concurrency` * 256 KiB + `max_bytes`; requests then wait for the caller. Only servers that announce no length
    and then send more than 4 MiB can push it beyond, each by at most `max_bytes`, no more than there is room for at
    4 MiB each. Closing the generator ends what is under way.

    Raises:
        CurateError: The process has run out of open files.
    """
    results: queue.SimpleQueue[tuple[int, Fetched] | asyncio.Task[None]] = queue.SimpleQueue()
    fetcher = _Fetcher(policy, results)
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(target=_run, args=(loop, fetcher, urls, stop), name="fetch", daemon=True)
    thread.start()
    try:
        while not isinstance(result := results.get(), asyncio.Task):
            yield result
            loop.call_soon_threadsafe(fetcher.room.give, len(result[1].body))
        result.result()
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def _run(loop: asyncio.AbstractEventLoop, fetcher: "_Fetcher", urls: Sequence[str | None], stop: asyncio.Event) -> None:
    """The thread. Its loop lives until `stop` is set, so the caller can always reach it."""

    async def until_stopped() -> None:
        fetching = asyncio.create_task(fetcher.fetch_all(urls))
        fetching.add_done_callback(fetcher.results.put)  # last of the results: it carries what went wrong, if anything
        await stop.wait()
        fetching.cancel()
        await asyncio.wait([fetching])

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(until_stopped())


class _Room:
    """Bytes that bodies may take in memory; first come, first served. `free` can pass below 0, see LARGE_BYTES."""

    def __init__(self, size: int):
        self.free = size
        self._waiting: collections.deque[tuple[int, asyncio.Future[None]]] = collections.deque()

    async def take(self, size: int) -> None:
        if self._waiting or size > self.free:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((size, turn))
            await turn
        else:
            self.free -= size

    def give(self, size: int) -> None:
        self.free += size
        while self._waiting and self._waiting[0][0] <= self.free:
            taken, turn = self._waiting.popleft()
            if not turn.done():  # cancelled, as everything is when the caller stops
                self.free -= taken
                turn.set_result(None)


@dataclasses.dataclass(slots=True)
class _Job:
    """One URL on its way: when it must be done, how often a server was contacted, and the room it has."""

    url: yarl.URL
    deadline: asyncio.Timeout
    attempts: int = 0
    room: int = 0

    def left_s(self) -> float:
        """Until the deadline."""
        return (self.deadline.when() or 0.0) - asyncio.get_running_loop().time()

    async def off_the_clock(self, wait: Awaitable[None]) -> None:
        """Waits for a limit of our own. Nothing but the end of the whole run can cancel it, so nothing leaks."""
        left_s = self.left_s()
        self.deadline.reschedule(None)
        await wait
        self.deadline.reschedule(asyncio.get_running_loop().time() + left_s)


@dataclasses.dataclass(frozen=True, slots=True)
class _Outcome:
    """Of one request: a status, or where it was redirected; whether another try can help, after what pause at least."""

    status: str
    body: bytes = b""
    retry: bool = False
    pause_s: float = 0.0
    location: str | None = None


class _Fetcher:
    def __init__(self, policy: FetchPolicy, results: "queue.SimpleQueue"):
        self.policy = policy
        self.results = results
        self.delivered = 0
        self.room = _Room(policy.concurrency * SMALL_BYTES + policy.max_bytes)
        self.slots = asyncio.Semaphore(policy.concurrency)
        self.host_slots: dict[str | None, asyncio.Semaphore] = collections.defaultdict(
            lambda: asyncio.Semaphore(policy.per_host)
        )

    async def fetch_all(self, urls: Sequence[str | None]) -> None:
        policy = self.policy
        self.addresses = Addresses(policy.allow_hosts, policy.resolve, policy.concurrency)
        silence_s = policy.timeout_s / policy.attempts
        connector = aiohttp.TCPConnector(
            limit=0,  # the slots are the limit
            resolver=self.addresses,
            use_dns_cache=False,
            ssl=ssl.create_default_context(),
            keepalive_timeout=KEEP_ALIVE_S,
        )
        try:
            async with (
                aiohttp.ClientSession(
                    connector=connector,
                    cookie_jar=aiohttp.DummyCookieJar(),
                    headers={"User-Agent": policy.user_agent, "Accept-Encoding": "identity"},
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=silence_s, sock_read=silence_s),
                    auto_decompress=False,  # so the cap holds for what is kept, and hashes are of what was sent
                    trust_env=False,  # a proxy would do lookups of its own, unchecked
                    max_line_size=MAX_HEADER_BYTES,
                    max_field_size=MAX_HEADER_BYTES,
                ) as self.session,
                asyncio.TaskGroup() as tasks,
            ):
                for index, url in enumerate(urls):
                    tasks.create_task(self._fetch(index, url))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            await self.addresses.close()
        if self.delivered != len(urls):  # a task that was cancelled by mistake ends without a word
            raise RuntimeError(f"fetching: {len(urls)} URLs were given, but {self.delivered} have an outcome")

    async def _fetch(self, index: int, text: str | None) -> None:
        try:
            fetched = await self._within_deadline(parse_url(text))
        except Refused as refused:
            fetched = Fetched(refused.status, attempts=0)
        self.results.put((index, fetched))
        self.delivered += 1

    async def _within_deadline(self, url: yarl.URL) -> Fetched:
        job = _Job(url, asyncio.timeout(self.policy.timeout_s))
        try:
            async with job.deadline:
                outcome = await self._retrying(job)
        except TimeoutError:
            return Fetched("timeout", job.attempts)
        return Fetched(outcome.status, job.attempts, outcome.body)

    async def _retrying(self, job: _Job) -> _Outcome:
        """The last try's outcome."""
        for attempt in range(self.policy.attempts - 1):
            outcome = await self._try(job)
            if not outcome.retry:
                return outcome
            # Seeded by the URL: tries at one host are spread out, and two runs pause alike.
            jitter = 0.5 + random.Random(f"{job.url} {attempt}").random()
            pause_s = max(outcome.pause_s, self.policy.backoff_s * 2**attempt * jitter)
            if pause_s >= job.left_s():
                return outcome
            await asyncio.sleep(pause_s)
        return await self._try(job)

    async def _try(self, job: _Job) -> _Outcome:
        """One request and those it is redirected to."""
        url = job.url
        try:
            for hop in range(self.policy.max_redirects + 1):
                outcome = await self._in_turn(url, job, first=hop == 0)
                if outcome.location is None:
                    return outcome
                url = parse_url(outcome.location, base=url)
        except Refused as refused:
            return _Outcome(refused.status, retry=refused.retry)
        return _Outcome("too_many_redirects")

    async def _in_turn(self, url: yarl.URL, job: _Job, first: bool) -> _Outcome:
        """One request, when it is its host's turn, a slot is free and there is room for a body."""
        host = self.host_slots[url.raw_host]
        await job.off_the_clock(self._enter(host, job))
        kept = 0
        try:
            outcome = await self._request(url, job, first)
            kept = len(outcome.body)
            return outcome
        finally:
            self.room.give(job.room - kept)
            job.room = kept
            self.slots.release()
            host.release()

    async def _enter(self, host: asyncio.Semaphore, job: _Job) -> None:
        await host.acquire()  # first, so that those who wait for one host leave the slots to others
        await self.slots.acquire()
        await self.room.take(SMALL_BYTES)
        job.room = SMALL_BYTES

    async def _request(self, url: yarl.URL, job: _Job, first: bool) -> _Outcome:
        try:
            await self.addresses.check(url)
            job.attempts += first
            async with self.session.get(url, allow_redirects=False) as response:
                return await self._judge(response, job)
        except TimeoutError:
            return _Outcome("timeout", retry=True)
        except aiohttp.ClientSSLError:
            return _Outcome("tls_failed")
        except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: no answer may end a whole run
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                raise CurateError(
                    f"fetching: {self.policy.concurrency} requests at once were asked for, but this process may not "
                    "open as many files. Raise its limit (ulimit -n) or lower the concurrency."
                ) from error
            return _Outcome("connection_failed", retry=True)

    async def _judge(self, response: aiohttp.ClientResponse, job: _Job) -> _Outcome:
        status, headers = response.status, response.headers
        if status in REDIRECTS and "Location" in headers:
            return _Outcome("too_many_redirects", location=headers["Location"])
        if 400 <= status < 500:
            return _Outcome("http_4xx", retry=status in RETRIED_4XX, pause_s=retry_after_s(headers.get("Retry-After")))
        if 500 <= status < 600:
            return _Outcome("http_5xx", retry=True, pause_s=retry_after_s(headers.get("Retry-After")))
        if not 200 <= status < 300:
            return _Outcome("connection_failed")
        if opted_out(headers.getall("X-Robots-Tag", ()), self.policy.user_agent_token):
            return _Outcome("opted_out")
        body = await self._read(response, job)
        return _Outcome("too_large") if body is None else _Outcome(OK, body)

    async def _read(self, response: aiohttp.ClientResponse, job: _Job) -> bytes | None:
        """The body, or None as soon as it is known to be larger than the cap."""
        cap = self.policy.max_bytes
        declared = response.content_length
        if declared is not None and declared > cap:
            return None
        chunks, size = [], 0
        async for chunk in response.content.iter_any():
            chunks.append(chunk)
            size += len(chunk)
            if size > cap:
                return None
            if size > SMALL_BYTES == job.room:
                more = min(declared or LARGE_BYTES, cap) - SMALL_BYTES
                await job.off_the_clock(self.room.take(more))
                job.room += more
        return b"".join(chunks)


def opted_out(values: Iterable[str], user_agent_token: str) -> bool:
    """Whether X-Robots-Tag headers forbid the use: noai, noimageai, noindex or noimageindex, in any case.

    A directive behind `token:` counts only if the token is ours; the token holds until the next one of the same header.

    Asked of the answer that has the image, not of redirects to it.

    Source: img2dataset's default. Differs: it takes what stands before a header's first colon for a token, so that it
    misses the noindex in "noindex, unavailable_after: 1 Jan 2030".
    """
    for value in values:
        ours = True
        for item in value.lower().split(","):
            before, colon, after = map(str.strip, item.partition(":"))
            # A date may have a comma, and no token a space: "unavailable_after: Fri, 25 Jun 2030 15:00:00 GMT".
            if colon and before not in WITH_VALUES and " " not in before:
                ours = before == user_agent_token
            if ours and (after if colon else before) in OPT_OUTS:
                return True
    return False


def retry_after_s(value: str | None) -> float:
    """The pause that a Retry-After header asks for, in seconds; 0 where it is missing, past or not understood."""
    if value is None:
        return 0.0
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
