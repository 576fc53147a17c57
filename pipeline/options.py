"""How images are fetched and made: what the driver decides and workers obey.

Apart from the code that obeys: that imports aiohttp and OpenCV, which the driver can do without.
"""

import dataclasses

from metadata.errors import CurateError


@dataclasses.dataclass(frozen=True)
class FetchPolicy:
    """How links are fetched: what may be contacted, how hard is tried, and what one link may cost.

    Args:
        allow_hosts: "host" or "host:port" (IPv6 as "[::1]"), lower case: exempt from the address check, just so.
        resolve: (host, ip, port): hosts answered by this address and port instead of DNS, whatever port the URL names
            (as curl's --connect-to); exempt from the address check.
        concurrency: Requests under way at once.
        per_host: Requests under way at once to one host; others wait without keeping different hosts from their turn.
        max_bytes: The largest body that is taken.
        timeout_s: For one URL: all its tries, redirects and the pauses between them. Waiting for a limit of our own (a
            turn, room in memory) is not counted. A try also ends after timeout_s / attempts in which nothing arrives.
        attempts: Tries, where another one can help.
        max_redirects: Followed in one try.
        backoff_s: The pause before the second try, give or take half; doubled for each further one.
        user_agent: Sent with every request.
        user_agent_token: The name by which an X-Robots-Tag header may address us alone; lower case.
    """

    allow_hosts: frozenset[str] = frozenset()
    resolve: tuple[tuple[str, str, int], ...] = ()
    concurrency: int = 128
    per_host: int = 16
    max_bytes: int = 20_000_000
    timeout_s: float = 30.0
    attempts: int = 3
    max_redirects: int = 5
    backoff_s: float = 0.5
    user_agent: str = "Mozilla/5.0 (compatible; clip-curate; image-text data curation, honours X-Robots-Tag)"
    user_agent_token: str = "clip-curate"

    def __post_init__(self) -> None:
        for name in ("concurrency", "per_host", "max_bytes", "timeout_s", "attempts"):
            if getattr(self, name) <= 0:
                raise CurateError(f"fetching: {name} is {getattr(self, name)}, but it must be more than 0. Raise it.")


@dataclasses.dataclass(frozen=True)
class ImageOptions:
    """What is done to an image; the defaults are those of DataComp's download.

    Attributes:
        size_px: longer side of what is kept; larger images are scaled down to it, smaller ones are left as they are.
        max_pixels: largest width * height that is decoded, of the first frame or page, which is the only one used. The
            default is enough for 33 megapixels (8K video, a 24 megapixel camera), and holds the peak near 200 MB, or
            2.5 GB for an image with alpha: the resizer mixes alpha in double precision, 75 bytes a pixel. Above
            178,956,970 Pillow refuses the header. An AVIF whose header lies is held to libavif's 268,435,456, 2 GB.
        blur_faces: whether what lies in the pool's face boxes is blurred.
        accept_changed: whether bytes are kept whose sha256 is not the pool's.
    """

    size_px: int = 512
    max_pixels: int = 2**25
    blur_faces: bool = True
    accept_changed: bool = False
