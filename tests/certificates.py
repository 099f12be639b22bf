"""Certificates for tests: an authority of their own, and what it signs."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.servers import LOOPBACK


@dataclass(frozen=True)
class Certificates:
    """Files: an authority, and a certificate of it for loopback with its key."""

    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def make(cls, directory: Path) -> Certificates:
        """Make all of them in a directory."""
        directory.mkdir(exist_ok=True)
        ours, theirs = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"authority of {directory.name}")])
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, LOOPBACK)])
        alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(LOOPBACK))])
        basic = x509.BasicConstraints(ca=True, path_length=None)
        made = cls(directory / "ca.pem", directory / "cert.pem", directory / "key.pem")
        for path, name, public, extension in (
            (made.authority, issuer, ours.public_key(), basic),
            (made.certificate, subject, theirs.public_key(), alternative),
        ):
            now = datetime.datetime.now(datetime.UTC)
            signed = (
                x509.CertificateBuilder()
                .subject_name(name)
                .issuer_name(issuer)
                .public_key(public)
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - datetime.timedelta(days=1))
                .not_valid_after(now + datetime.timedelta(days=1))
                .add_extension(extension, critical=True)
                .sign(ours, hashes.SHA256())
            )
            path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        made.key.write_bytes(
            theirs.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return made
