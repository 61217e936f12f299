"""The local server: byte ranges as RFC 9110 says, and nothing outside its folder."""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.serve import make_server, served


@pytest.fixture
def address(tmp_path: Path) -> Iterator[tuple[str, int]]:
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("<p>home")
    (site / "data.h5").write_bytes(bytes(range(200)))
    (site / "code.js").write_text("1")
    (tmp_path / "secret.txt").write_text("secret")
    (site / "link.txt").symlink_to(tmp_path / "secret.txt")
    server = make_server(site, port=0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield "127.0.0.1", server.server_address[1]
    server.shutdown()
    server.server_close()


def ask(address: tuple[str, int], path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(*address, timeout=10)
    connection.request(method, path, headers=headers)
    reply = connection.getresponse()
    return reply.status, {key.title(): value for key, value in reply.getheaders()}, reply.read()


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=10-19", range(10, 20)),
        ("bytes=190-", range(190, 200)),
        ("bytes=-5", range(195, 200)),
        ("bytes=150-999", range(150, 200)),
    ],
)
def test_ranges_get_206_and_just_those_bytes(address, header, expected):
    status, headers, body = ask(address, "/data.h5", Range=header)
    assert status == 206
    assert body == bytes(expected)
    assert headers["Content-Range"] == f"bytes {expected[0]}-{expected[-1]}/200"
    assert headers["Content-Length"] == str(len(expected))


@pytest.mark.parametrize("header", ["bytes=200-", "bytes=50-40", "bytes=-", "lines=1-2"])
def test_ranges_that_cannot_be_met_get_416(address, header):
    status, headers, body = ask(address, "/data.h5", Range=header)
    assert status == 416
    assert headers["Content-Range"] == "bytes */200"
    assert body == b""


def test_without_a_range_the_whole_file_comes_with_its_type(address):
    status, headers, body = ask(address, "/data.h5")
    assert (status, len(body)) == (200, 200)
    assert headers["Accept-Ranges"] == "bytes"
    assert ask(address, "/code.js")[1]["Content-Type"] == "text/javascript"
    assert b"home" in ask(address, "/")[2]
    status, headers, body = ask(address, "/data.h5", method="HEAD")
    assert (status, headers["Content-Length"], body) == (200, "200", b"")


@pytest.mark.parametrize(
    "path", ["/../secret.txt", "/%2e%2e/secret.txt", "/link.txt", "/none.txt", "/%00.txt", "/" + 300 * "a"]
)
def test_nothing_outside_the_folder_is_served(address, path):
    for headers in ({}, {"Range": "bytes=0-5"}):
        status, _, body = ask(address, path, **headers)
        assert status == 404
        assert b"secret" not in body or b"secret.txt" in body


def test_links_to_folders_outside_lead_nowhere_and_links_inside_do(address, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/secret.txt").write_text("secret")
    (tmp_path / "site/away").symlink_to(tmp_path / "other")
    (tmp_path / "site/here").symlink_to(tmp_path / "site/data.h5")
    assert ask(address, "/away/secret.txt")[0] == 404
    assert ask(address, "/away/secret.txt", Range="bytes=0-1")[0] == 404
    assert ask(address, "/here", Range="bytes=3-4")[2] == bytes([3, 4])


def test_a_folder_that_is_reached_by_a_link_is_served(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site/a.txt").write_text("a")
    (tmp_path / "link").symlink_to(tmp_path / "site")
    with served(tmp_path / "link") as address, urllib.request.urlopen(address + "a.txt", timeout=10) as reply:
        assert reply.read() == b"a"


def test_connections_of_many_workers_wait_their_turn(tmp_path):
    """Where the system refuses one, its client asks again a second later."""
    server = make_server(tmp_path, port=0)
    connections = [socket.create_connection(server.server_address[:2], timeout=0.9) for _ in range(40)]
    for connection in connections:
        connection.close()
    server.server_close()


def test_a_taken_port_gives_a_free_one(address, tmp_path):
    other = make_server(tmp_path / "site", port=address[1])
    assert other.server_address[1] != address[1]
    other.server_close()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        make_server(tmp_path / "none")
