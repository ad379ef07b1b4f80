"""Whatever OpenSSL says becomes one line."""

import ssl

import pytest

from pipeline.wire.tls_errors import tls_problem


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] long\ntext (_ssl.c:1006)")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            tls_error("TLSV13_ALERT_CERTIFICATE_REQUIRED"),
            "it wants a certificate from here: links need one on both sides",
        ),
        (tls_error("SOME_REASON_OF_A_LATER_VERSION"), "TLS failed: SOME_REASON_OF_A_LATER_VERSION"),
        (ssl.SSLEOFError(8, "EOF occurred\nin violation of protocol"), "it closed the connection without a word"),
        (TimeoutError("_ssl.c:989: The handshake operation timed out"), "it did not answer in time"),
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
        (ValueError("check_hostname\nrequires server_hostname"), "check_hostname requires server_hostname"),
    ],
)
def test_a_problem_is_one_line(error: OSError | ValueError, words: str) -> None:
    assert tls_problem(error) == words
