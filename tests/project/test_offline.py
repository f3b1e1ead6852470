"The tests themselves: the network is off, here and in what they start; the loopback works."
import socket, sys, threading
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from common import run


def test_no_network_here():
    with pytest.raises(URLError, match='network is off'): urlopen('http://example.org', timeout=5)
    with pytest.raises(OSError, match='network is off'): socket.create_connection(('192.0.2.1', 80), timeout=5)


def test_no_network_in_what_tests_start(tmp_path):
    code = 'import urllib.request as u\ntry: u.urlopen("http://example.org", timeout=5)\nexcept OSError as e: print(e)'
    assert 'network is off' in run(sys.executable, '-c', code, cwd=tmp_path)


def test_loopback_works():
    with socket.create_server(('127.0.0.1', 0)) as server:
        thread = threading.Thread(target=lambda: server.accept()[0].sendall(b'hello'))
        thread.start()
        address = 'localhost', server.getsockname()[1]
        with socket.create_connection(address, timeout=120) as s: assert s.recv(5) == b'hello'
        thread.join()
