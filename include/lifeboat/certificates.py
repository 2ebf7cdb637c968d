"""Why a server's certificate is not trusted, and whose it is: no waiting makes it so."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress

TIME_OUT = 5.0

_NO_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNSUPPORTED_PROTOCOL", "RECORD_LAYER_FAILURE"}


def distrust(error: BaseException, host: str, port: int) -> str:
    """Why TLS with a server cannot come about, however often it is tried; empty where that is not what happened.

    The server is asked once more for its certificate, to name it.
    """
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = cause.verify_message.rstrip(".") or "it cannot be verified"
            return f"the certificate of {host} is not trusted: {why}{_whose(host, port)}"
        if type(cause).__name__ == "CertificateError":  # urllib3's own, where it compares names itself
            return f"the certificate of {host} is not trusted: Hostname mismatch{_whose(host, port)}"
        if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
            return f"{host} does not speak TLS on port {port} as this host does ({cause.reason})"
    return ""


def _causes(error: BaseException) -> list[BaseException]:
    """An error and all that it wraps, in whichever way its library does so."""
    found: list[BaseException] = []
    pending: list[object] = [error]
    while pending:
        one = pending.pop()
        if not isinstance(one, BaseException) or any(one is other for other in found):
            continue
        found.append(one)
        pending += [one.__cause__, one.__context__, *one.args]
        pending += [getattr(one, name, None) for name in ("reason", "inner_exception", "kwargs")]
        pending += list(found_in.values()) if isinstance(found_in := getattr(one, "kwargs", None), dict) else []
    return found


def _whose(host: str, port: int) -> str:
    """The subject, the issuer and the end of the certificate that a server shows; empty when it cannot be had."""
    with suppress(OSError, ValueError, ImportError):
        from cryptography import x509

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # only looked at; nothing is sent
        with (
            socket.create_connection((host, port), TIME_OUT) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            shown = secured.getpeercert(binary_form=True)
        if shown:
            found = x509.load_der_x509_certificate(shown)
            names = f"{found.subject.rfc4514_string()}, issued by {found.issuer.rfc4514_string()}"
            return f" ({_printable(names)}, valid until {found.not_valid_after_utc:%Y-%m-%d})"
    return ""


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:200]
