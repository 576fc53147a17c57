"""The closed list of what can become of a planned sample. A shard's ledger has one for every planned uid."""

OK = "ok"

STATUSES = {
    OK: "the sample is in the shard",
    # The link.
    "bad_url": "null, not http or https, or not a URL",
    "forbidden_address": "the host, or one a redirect led to, is private, loopback, link-local or reserved",
    "unknown_host": "the name does not resolve",
    "connection_failed": "refused, reset, closed early, not HTTP, or a status beside 2xx, 4xx, 5xx and redirects",
    "tls_failed": "the certificate or the handshake was refused",
    "timeout": "not finished within the deadline for one URL",
    "http_4xx": "the server answered with a 4xx status",
    "http_5xx": "the server answered with a 5xx status",
    "too_many_redirects": "more redirects than are followed",
    "too_large": "the body is larger than the cap",
    "opted_out": "an X-Robots-Tag header forbids the use",
    # The bytes.
    "changed": "the bytes' sha256 is not the pool's",
    "not_an_image": "not one of the image formats that are read",
    "too_many_pixels": "the header declares more pixels than the cap",
    "undecodable": "an image by its header, but it can't be decoded",
}
