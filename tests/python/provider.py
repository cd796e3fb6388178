"""An OpenID provider on this machine: its keys over TLS, under an authority of its own, and ID tokens on request.

`provider.py FOLDER` writes the authority's certificate to `FOLDER/ca.pem`, says where its keys are, and then answers each
line `SUBJECT SECONDS [KEY]` with a token for that subject, issued so many seconds from now. A key that is named for the
first time is published from then on.
"""

import datetime
import http.server
import json
import pathlib
import ssl
import sys
import threading
import time

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

ISSUER = "https://idp.example/"
AUDIENCE = "orders-app"

keys: dict = {}


def key(name: str):
    """The signing key of this name: RSA where the name says so, else P-256."""
    if name not in keys:
        keys[name] = (
            rsa.generate_private_key(public_exponent=65537, key_size=2048)
            if name.startswith("rsa")
            else ec.generate_private_key(ec.SECP256R1())
        )
    return keys[name]


def algorithm(name: str) -> str:
    return "RS256" if name.startswith("rsa") else "ES256"


def published() -> list:
    """The public halves, as a key set has them."""
    members = []
    for name, private in keys.items():
        public = private.public_key()
        kind = RSAAlgorithm if name.startswith("rsa") else ECAlgorithm
        members.append({**kind.to_jwk(public, as_dict=True), "kid": name, "use": "sig", "alg": algorithm(name)})
    return members


def token(subject: str, offset: int, name: str) -> str:
    issued = int(time.time()) + offset
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": issued, "exp": issued + 600}
    return jwt.encode(claims, key(name), algorithm=algorithm(name), headers={"kid": name})


class Keys(http.server.BaseHTTPRequestHandler):
    """Answers every path with the key set."""

    def do_GET(self) -> None:
        body = json.dumps({"keys": published()}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


def certified(folder: pathlib.Path) -> ssl.SSLContext:
    """A server certificate for `localhost`, from an authority that is made for it."""
    now = datetime.datetime.now(datetime.timezone.utc)
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])

    def certificate(subject, public, is_authority):
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if not is_authority:
            names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(authority_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    (folder / "ca.pem").write_bytes(certificate(authority, authority_key.public_key(), True))
    server = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    chain = folder / "server.pem"
    private = server_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain.write_bytes(private + certificate(server, server_key.public_key(), False))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return context


def main() -> None:
    context = certified(pathlib.Path(sys.argv[1]))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Keys)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    key("ec-1")
    url = f"https://localhost:{server.server_port}/keys"
    print(json.dumps({"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": url}), flush=True)
    for line in sys.stdin:
        subject, offset, *name = line.split()
        print(json.dumps(token(subject, int(offset), *(name or ["ec-1"]))), flush=True)


if __name__ == "__main__":
    main()
