"""What a TLS failure means, in words: OpenSSL's reasons are many, terse, and differ between its versions.

The rule: whoever reads the sentence learns which side has the problem. OpenSSL's own reason is repeated only where we
have no better words. In TLS 1.3 the connecting end finishes its handshake before the other end has looked at its
certificate, so an alert about that comes with its first read.
"""

import ssl

# X509_V_ERR_* of x509_vfy.h: our own verdict on the peer's certificate.
_OUR_VERDICT = {
    9: "its certificate is not valid yet: check the clocks of both hosts",
    10: "its certificate has expired: renew it",
    18: "its certificate is from an unknown CA (self-signed): both hosts need the same ca",
    19: "its certificate is from an unknown CA: both hosts need the same ca",
    20: "its certificate is from an unknown CA: both hosts need the same ca",
    21: "its certificate is from an unknown CA: both hosts need the same ca",
    7: "its certificate is from an unknown CA (the signature does not match): both hosts need the same ca",
    26: "its certificate is not made for this use: it needs serverAuth and clientAuth",
    62: "its certificate is for another host: make one with this name",
    64: "its certificate is for another address: make one with this address",
}

# SSL_R_* reasons: what the other end told us before it closed, and what we could not read.
_REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate: links need one on both sides",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate from here: links need one on both sides",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know the CA of the certificate here: both hosts need the same ca",
    "TLSV1_ALERT_DECRYPT_ERROR": "it does not accept the certificate here: both hosts need the same ca",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the certificate here has expired, it says: renew it",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not accept the certificate here",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "the certificate here is not made for this use, it says",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not accept the certificate here: check its host name and CA",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it has no cipher or certificate in common with this host",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it does not speak TLS 1.3",
    "UNSUPPORTED_PROTOCOL": "it does not speak TLS 1.3",
    "WRONG_VERSION_NUMBER": "it does not speak TLS: start both sides with the same tls settings",
    "WRONG_SSL_VERSION": "it does not speak TLS: start both sides with the same tls settings",
    "PACKET_LENGTH_TOO_LONG": "it does not speak TLS: start both sides with the same tls settings",
    "RECORD_LAYER_FAILURE": "it does not speak TLS: start both sides with the same tls settings",
    "UNEXPECTED_MESSAGE": "it does not speak TLS: start both sides with the same tls settings",
    "HTTP_REQUEST": "it does not speak TLS but HTTP",
    "HTTPS_PROXY_REQUEST": "it does not speak TLS but HTTP",
    "UNEXPECTED_EOF_WHILE_READING": "it closed the connection without a word",
}


def tls_problem(error: OSError | ValueError) -> str:
    """One line, without a name of the peer, which is called "it". `error` is what an ssl.SSLSocket raised."""
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return _OUR_VERDICT.get(error.verify_code, f"its certificate is refused: {_one_line(error.verify_message)}")
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "it closed the connection without a word"
    if isinstance(error, ssl.SSLError):
        return _REASONS.get(error.reason, f"TLS failed: {_one_line(error.reason or error)}")
    if isinstance(error, OSError):
        return _one_line(error.strerror or error)
    return _one_line(error)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
