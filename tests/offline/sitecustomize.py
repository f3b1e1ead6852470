"""Switches the network off for every Python process that the tests start; the loopback stays.

conftest.py runs this file and puts its folder on PYTHONPATH, so that Python itself imports it at the start of each
notebook kernel and each command. If CNN_TRICKS_ROUGH is set, it makes training rougher too: see rough.py.
"""
import errno, ipaddress, os, socket


def is_loopback(host) -> bool:
    "True for no host, localhost, this machine's name, and 127.0.0.0/8 or ::1."
    host = host.decode() if isinstance(host, bytes) else host
    if host in (None, '', 'localhost', socket.gethostname()): return True
    try: return ipaddress.ip_address(host).is_loopback
    except ValueError: return False


def guard(name):
    "Let the socket method `name` reach loopback addresses alone."
    plain = getattr(socket.socket, name)

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and not is_loopback(address[0]):
            raise OSError(errno.ENETUNREACH, f'the network is off for tests: {address[0]}')
        return plain(self, address)
    setattr(socket.socket, name, guarded)


def getaddrinfo(host, *args, plain=socket.getaddrinfo, **kwargs):
    if not is_loopback(host): raise socket.gaierror(socket.EAI_NONAME, f'the network is off for tests: {host}')
    return plain(host, *args, **kwargs)


if socket.getaddrinfo.__module__ != __name__:
    for name in 'connect', 'connect_ex': guard(name)
    socket.getaddrinfo = getaddrinfo

if os.environ.get('CNN_TRICKS_ROUGH') and __name__ == 'sitecustomize': import rough  # noqa: F401
