"""A certificate authority of the test's own, made with openssl."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

_CONFIG = """\
[ca]
default_ca = here
[here]
database = index
new_certs_dir = .
serial = serial
default_md = sha256
policy = names
unique_subject = no
[names]
commonName = supplied
"""

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Authority:
    """Signs certificates in a folder of its own. Skips the test where openssl is missing, but not in CI."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("openssl")
        if program is None:
            assert not os.environ.get("CI"), "openssl is missing"
            pytest.skip("openssl is missing")
        self._program = program
        self._folder = folder
        folder.mkdir(exist_ok=True)
        (folder / "config").write_text(_CONFIG)
        (folder / "index").touch()
        (folder / "serial").write_text("01\n")
        self.file = folder / "authority.pem"
        """What a client has to trust."""
        self._run(
            *("req", "-x509", *_KEY, "-keyout", "authority.key", "-out", "authority.pem"),
            *("-days", "2", "-subj", "/CN=Authority of a test"),
            # Python 3.13 asks for what the standard does: what a certificate may be used for, and who has signed it.
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        )

    def serving(self, names: str, *, expired: bool = False) -> ssl.SSLContext:
        """What a server needs that goes by these names: `DNS:a.test,IP:127.0.0.1`."""
        extensions = f"subjectAltName={names}\nauthorityKeyIdentifier=keyid\n"
        (self._folder / "names").write_text(extensions)
        self._run("req", *_KEY, "-keyout", "key", "-out", "request", "-subj", "/CN=upstream")
        start, end = ("20200101", "20200102") if expired else ("20200101", "20491231")
        self._run(
            *(
                "ca",
                "-batch",
                "-notext",
                "-config",
                "config",
                "-in",
                "request",
                "-extfile",
                "names",
            ),
            *("-cert", "authority.pem", "-keyfile", "authority.key", "-out", "certificate"),
            *("-startdate", f"{start}000000Z", "-enddate", f"{end}000000Z"),
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._folder / "certificate", self._folder / "key")
        context.set_alpn_protocols(["h2", "http/1.1"])
        return context

    def _run(self, *arguments: str) -> None:
        subprocess.run(
            [self._program, *arguments], cwd=self._folder, check=True, capture_output=True
        )
