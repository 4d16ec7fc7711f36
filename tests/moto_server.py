#!/usr/bin/env python3
"""moto's server, corrected where a device would notice that it is not AWS:

* A certificate from a signing request is for the key of that request; moto makes a key nobody has.
* It is active only if that is asked for; moto takes the text "false" for true.
* Its identifier is the SHA-256 of the certificate, as at AWS.
* MOTO_CA_CERT and MOTO_CA_KEY name the CA that signs, so that a broker which trusts it accepts the certificates.
* MOTO_ENDPOINT is the answer of describe-endpoint.

Arguments are those of moto_server. What moto lacks: provisioning templates and claims, policies that
have an effect, and the exclusive association of a certificate with a thing (it ignores the parameter).
"""

import os
import sys
from datetime import datetime, timedelta, timezone

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from moto.core.config import default_user_config
from moto.iot import models
from moto.server import main


def authority():
    """Name and key of the CA."""
    if "MOTO_CA_CERT" not in os.environ:
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "moto")])
        return name, ec.generate_private_key(ec.SECP256R1())
    with open(os.environ["MOTO_CA_CERT"], "rb") as file:
        name = x509.load_pem_x509_certificate(file.read()).subject
    with open(os.environ["MOTO_CA_KEY"], "rb") as file:
        return name, serialization.load_pem_private_key(file.read(), None)


CA_NAME, CA_KEY = authority()


def create_certificate_from_csr(self, csr, set_as_active):
    request = x509.load_pem_x509_csr(csr.encode())
    if not request.is_signature_valid:
        raise models.InvalidRequestException(msg="The signature of the request is not valid")
    now = datetime.now(timezone.utc)
    cert = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "AWS IoT Certificate")]))
        .issuer_name(CA_NAME)
        .public_key(request.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=2))
        .not_valid_after(now + timedelta(days=3650))
        .sign(CA_KEY, hashes.SHA256())
    )
    pem = cert.public_bytes(serialization.Encoding.PEM).decode()
    # It comes as text from the query.
    is_active = str(set_as_active).lower() == "true"
    return self.register_certificate(pem, ca_certificate_pem=None, set_as_active=is_active, status="INACTIVE")


models.IoTBackend.create_certificate_from_csr = create_certificate_from_csr
default_user_config["iot"] = {"use_valid_cert": True}

if "MOTO_ENDPOINT" in os.environ:
    original = models.FakeEndpoint.__init__

    def with_endpoint(self, endpoint_type, region_name):
        original(self, endpoint_type, region_name)
        self.endpoint = os.environ["MOTO_ENDPOINT"]

    models.FakeEndpoint.__init__ = with_endpoint

if __name__ == "__main__":
    sys.exit(main())
