"""Makes what a SuperLink with TLS and SuperNode authentication needs, for 127.0.0.1.

    python deploy/certificates.py FOLDER NUM_SUPERNODES

FOLDER then holds ca.crt, server.crt and server.key (TLS), and node-0, node-0.pub, ... (one pair of
keys per SuperNode, and one more pair that nobody registers: stranger). Nothing leaves the machine.
"""

import ipaddress
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

VALID_FOR = timedelta(days=7)


def main(folder: Path, num_supernodes: int) -> None:
    """Write all files; private keys are readable by their owner alone."""
    folder.mkdir(parents=True, exist_ok=True)
    ca_key, server_key = new_key(), new_key()
    ca = certificate("fl-defense demo CA", ca_key, ca_key, "fl-defense demo CA", is_ca=True)
    server = certificate("127.0.0.1", server_key, ca_key, "fl-defense demo CA", is_ca=False)
    (folder / "ca.crt").write_bytes(pem(ca))
    (folder / "server.crt").write_bytes(pem(server))
    write_private(folder / "server.key", server_key, serialization.PrivateFormat.TraditionalOpenSSL)
    for name in [*(f"node-{number}" for number in range(num_supernodes)), "stranger"]:
        key = new_key()
        write_private(folder / name, key, serialization.PrivateFormat.OpenSSH)
        (folder / f"{name}.pub").write_bytes(
            key.public_key().public_bytes(
                serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
            )
        )


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a key on the curve that Flower's SuperNode authentication takes."""
    return ec.generate_private_key(ec.SECP384R1())


def certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    issuer: str,
    *,
    is_ca: bool,
) -> x509.Certificate:
    """Return a certificate for `key`, valid for 127.0.0.1 and localhost, signed by the issuer."""
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + VALID_FOR)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
            ),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA384())
    )


def pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate as text."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def write_private(
    path: Path, key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat
) -> None:
    """Write a private key that only its owner can read."""
    content = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    path.touch(mode=0o600)
    path.write_bytes(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
