"""Which URLs and addresses may be contacted."""

import pytest
import yarl

from pipeline.addresses import MAX_URL_CHARS, Refused, is_public, parse_url


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("http://example.com", "http://example.com/"),
        ("HTTPS://Example.COM:443/A.jpg", "https://example.com/A.jpg"),
        ("http://example.com:8080/a?b=c#fragment", "http://example.com:8080/a?b=c"),
        ("  http://example.com/a.jpg\n", "http://example.com/a.jpg"),
        ("http://example.com/a\tb\n.jpg", "http://example.com/ab.jpg"),
        ("http://example.com/my cat.jpg", "http://example.com/my%20cat.jpg"),
        ("http://example.com/Köln.jpg?q=Ä ö", "http://example.com/K%C3%B6ln.jpg?q=%C3%84%20%C3%B6"),
        ("http://example.com/图片.jpg", "http://example.com/%E5%9B%BE%E7%89%87.jpg"),
        ("http://example.com/a%20b%2Fc%7e.jpg?s=a%2Bb+c%20d", "http://example.com/a%20b%2Fc%7e.jpg?s=a%2Bb+c%20d"),
        ("http://example.com/100%.jpg", "http://example.com/100%.jpg"),
        ('http://example.com/{a}|"b"', "http://example.com/%7Ba%7D|%22b%22"),
        ("http://example.com\\a\\b.jpg?c\\d", "http://example.com/a/b.jpg?c\\d"),
        ("http://example.com\\@127.0.0.1/", "http://example.com/@127.0.0.1/"),
        ("http://example.com?a", "http://example.com/?a"),
        ("http://example.com/../a/./b", "http://example.com/../a/./b"),  # which a browser resolves
        ("http://bücher.example/a.jpg", "http://xn--bcher-kva.example/a.jpg"),
        ("http://例え.テスト/", "http://xn--r8jz45g.xn--zckzah/"),
        ("http://my_bucket.s3.example.com/a", "http://my_bucket.s3.example.com/a"),
        ("http://example.com./a", "http://example.com/a"),
        ("http://2130706433/", "http://127.0.0.1/"),
        ("http://127.1/", "http://127.0.0.1/"),
        ("http://0x7f.0.0.1/", "http://127.0.0.1/"),
        ("http://0177.0.0.1/", "http://127.0.0.1/"),
        ("http://１２７.０.０.１/", "http://127.0.0.1/"),
        ("http://127.0.0.1./", "http://127.0.0.1/"),
        ("http://0/", "http://0.0.0.0/"),
        ("http://[0:0:0::1]:81/", "http://[::1]:81/"),
    ],
)
def test_a_url_is_sent_as_a_browser_sends_it(given, sent):
    assert str(parse_url(given)) == sent


@pytest.mark.parametrize(
    "given",
    [
        *(None, "", "   ", 7, b"http://example.com/", "cat", "example.com/a.jpg", "//example.com/a.jpg", "/etc/passwd"),
        *("file:///etc/passwd", "ftp://example.com/a", "data:image/png;base64,AAAA", "javascript:alert(1)"),
        *("about:blank", "gopher://example.com/", "http:/example.com/a", "http:example.com"),
        *("http://", "http:///a.jpg", "https://?a"),
        *("http://example.com:0/", "http://example.com:65536/", "http://example.com:port/", "http://example.com:-1/"),
        *("http://user:secret@example.com/", "http://@example.com/"),
        *("http://[::1/", "http://[zz]/", "http://::1/", "http://1.2.3.4.5/", "http://256.1.1.1/"),
        *("http://exa mple.com/", "http://a..b/", "http://.a/", f"http://{'a' * 64}.com/", f"http://{'a.' * 127}com/"),
        *("http://127.0.0.1%00.com/", "http://%31.com/", "http://a<b>.com/", "http://\u202emoc/", "http://a\x00b/"),
        *("http://example.com/\ud800", f"http://example.com/{'a' * MAX_URL_CHARS}", "\ufeffhttp://example.com/"),
    ],
)
def test_what_is_no_http_url_is_refused(given):
    with pytest.raises(Refused) as refused:
        parse_url(given)
    assert refused.value.status == "bad_url"
    assert not refused.value.retry


@pytest.mark.parametrize(
    ("location", "sent"),
    [
        ("/b.jpg", "http://example.com:81/b.jpg"),
        ("b.jpg", "http://example.com:81/dir/b.jpg"),
        ("../b c.jpg?d", "http://example.com:81/b%20c.jpg?d"),
        ("//other.example/b", "http://other.example/b"),
        ("https://other.example/é", "https://other.example/%C3%A9"),
        ("/\udce9.jpg", "http://example.com:81/%E9.jpg"),  # a byte that isn't UTF-8, as aiohttp hands it on
    ],
)
def test_a_redirect_may_be_relative(location, sent):
    assert str(parse_url(location, base=yarl.URL("http://example.com:81/dir/a.jpg"))) == sent


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://a.test/", "http://u:p@a.test/", "http://["])
def test_a_redirect_leads_nowhere_else(location):
    with pytest.raises(Refused):
        parse_url(location, base=yarl.URL("http://example.com/"))


@pytest.mark.parametrize("address", ["8.8.8.8", "172.15.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254"),
        *("172.16.0.1", "192.168.1.1", "192.0.0.192", "198.18.0.1", "203.0.113.5", "224.0.0.1", "240.0.0.1"),
        *("255.255.255.255", "168.63.129.16", "192.88.99.1"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "ff0e::1"),
        *("2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "::8.8.8.8", "64:ff9b::7f00:1"),
        *("64:ff9b:1::1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:808:808::1", "2001::1", "2001:0:7f00:1::1"),
        "2606:4700::1111%eth0",
    ],
)
def test_not_public(address):
    assert not is_public(address)
