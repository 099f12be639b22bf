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
    secret: ec.EllipticCurvePrivateKey
    """The authority's own."""

    @classmethod
    def make(cls, directory: Path) -> Certificates:
        """Make all of them in a directory."""
        directory.mkdir(exist_ok=True)
        secret = ec.generate_private_key(ec.SECP256R1())
        made = cls(directory / "ca.pem", directory / "cert.pem", directory / "key.pem", secret)
        basic = x509.BasicConstraints(ca=True, path_length=None)
        made._sign(made.authority, made._issuer, secret, basic)
        made.issue("", x509.IPAddress(ipaddress.ip_address(LOOPBACK)))
        return made

    def issue(self, name: str, *names: x509.GeneralName) -> tuple[Path, Path]:
        """Write a certificate with these alternative names, and its key; return both paths."""
        secret = ec.generate_private_key(ec.SECP256R1())
        certificate, key = (path.with_name(f"{name}{path.name}") for path in (self.certificate, self.key))
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name or LOOPBACK)])
        self._sign(certificate, subject, secret, x509.SubjectAlternativeName(names))
        key.write_bytes(
            secret.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, key

    @property
    def _issuer(self) -> x509.Name:
        named = f"authority of {self.authority.parent.name}"
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, named)])

    def _sign(self, path: Path, name: x509.Name, of: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType) -> None:
        now = datetime.datetime.now(datetime.UTC)
        signed = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._issuer)
            .public_key(of.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(extension, critical=True)
            .sign(self.secret, hashes.SHA256())
        )
        path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
