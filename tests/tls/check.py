#!/usr/bin/env python3
"""sslyze against the real program: `tests/tls/check.py DOORWARD`, some ten seconds.

Starts `doorward dev` on a free port and scans the control host, which asks for a client certificate, and
a service host, which demands one. What must come out is said in `judge`; why it is not Mozilla's
`modern` profile to the letter stands in README.md beside this file. Needs sslyze (PyPI).
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from sslyze import (
    ClientAuthenticationCredentials,
    ScanCommand,
    ScanCommandAttemptStatusEnum,
    Scanner,
    ServerNetworkConfiguration,
    ServerNetworkLocation,
    ServerScanRequest,
)

TLS12 = {
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
}
TLS13 = {"TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256"}
CURVES = {"X25519", "secp256r1", "prime256v1", "secp384r1"}
COMMANDS = {
    ScanCommand.SSL_2_0_CIPHER_SUITES,
    ScanCommand.SSL_3_0_CIPHER_SUITES,
    ScanCommand.TLS_1_0_CIPHER_SUITES,
    ScanCommand.TLS_1_1_CIPHER_SUITES,
    ScanCommand.TLS_1_2_CIPHER_SUITES,
    ScanCommand.TLS_1_3_CIPHER_SUITES,
    ScanCommand.TLS_COMPRESSION,
    ScanCommand.TLS_1_3_EARLY_DATA,
    ScanCommand.OPENSSL_CCS_INJECTION,
    ScanCommand.TLS_FALLBACK_SCSV,
    ScanCommand.HEARTBLEED,
    ScanCommand.ROBOT,
    ScanCommand.SESSION_RENEGOTIATION,
    ScanCommand.SESSION_RESUMPTION,
    ScanCommand.ELLIPTIC_CURVES,
    ScanCommand.TLS_EXTENDED_MASTER_SECRET,
}


class Findings:
    def __init__(self, host):
        self.host = host
        self.faults = []
        self.held = 0

    def want(self, what, holds, seen=""):
        if holds:
            self.held += 1
        else:
            self.faults.append(f"{self.host}: {what}: {seen}")


def judge(host, results):
    """Holds one host's results against what must come out."""
    found = Findings(host)

    def result(command):
        attempt = getattr(results, command.value)
        if attempt.status != ScanCommandAttemptStatusEnum.COMPLETED:
            found.want(f"{command.value} was scanned", False, f"{attempt.error_reason} {attempt.error_trace}")
            return None
        return attempt.result

    def suites(command):
        it = result(command)
        return None if it is None else {suite.cipher_suite.name for suite in it.accepted_cipher_suites}

    for old in (
        ScanCommand.SSL_2_0_CIPHER_SUITES,
        ScanCommand.SSL_3_0_CIPHER_SUITES,
        ScanCommand.TLS_1_0_CIPHER_SUITES,
        ScanCommand.TLS_1_1_CIPHER_SUITES,
    ):
        accepted = suites(old)
        if accepted is not None:
            found.want(f"{old.value}: none", accepted == set(), accepted)
    accepted = suites(ScanCommand.TLS_1_2_CIPHER_SUITES)
    if accepted is not None:
        found.want("TLS 1.2: forward-secret AEAD only", accepted and accepted <= TLS12, accepted)
    accepted = suites(ScanCommand.TLS_1_3_CIPHER_SUITES)
    if accepted is not None:
        found.want("TLS 1.3: all three", accepted == TLS13, accepted)
    if (it := result(ScanCommand.TLS_COMPRESSION)) is not None:
        found.want("no compression", not it.supports_compression)
    if (it := result(ScanCommand.TLS_1_3_EARLY_DATA)) is not None:
        found.want("no early data", not it.supports_early_data)
    if (it := result(ScanCommand.OPENSSL_CCS_INJECTION)) is not None:
        found.want("no CCS injection", not it.is_vulnerable_to_ccs_injection)
    if (it := result(ScanCommand.TLS_FALLBACK_SCSV)) is not None:
        found.want("TLS_FALLBACK_SCSV", it.supports_fallback_scsv)
    if (it := result(ScanCommand.HEARTBLEED)) is not None:
        found.want("no Heartbleed", not it.is_vulnerable_to_heartbleed)
    if (it := result(ScanCommand.ROBOT)) is not None:
        found.want("no ROBOT", it.robot_result.value.startswith("NOT_VULNERABLE"), it.robot_result)
    if (it := result(ScanCommand.SESSION_RENEGOTIATION)) is not None:
        found.want("no renegotiation by clients", not it.is_vulnerable_to_client_renegotiation_dos)
        found.want("secure renegotiation", it.supports_secure_renegotiation)
    if (it := result(ScanCommand.SESSION_RESUMPTION)) is not None:
        # A certificate is verified on each connection, so none is resumed.
        ids, tickets = it.session_id_resumption_result.value, it.tls_ticket_resumption_result.value
        found.want("no resumption by id", ids == "NOT_SUPPORTED", ids)
        found.want("no resumption by ticket", tickets == "NOT_SUPPORTED", tickets)
    if (it := result(ScanCommand.ELLIPTIC_CURVES)) is not None:
        curves = {curve.name for curve in it.supported_curves or []}
        found.want("good curves only", curves and curves <= CURVES, curves)
    if (it := result(ScanCommand.TLS_EXTENDED_MASTER_SECRET)) is not None:
        found.want("extended master secret", it.supports_ems_extension)
    return found


def signed_in(program, home, env):
    """A session's certificate and key: what a service host that demands one is scanned with."""
    env = os.environ | env | {"DOORWARD_HOME": home}
    subprocess.run([program, "login", "--as", "alice"], env=env, check=True, capture_output=True)
    profile = pathlib.Path(home, "profiles", "default")
    return ClientAuthenticationCredentials(
        certificate_chain_path=profile / "certificate.pem", key_path=profile / "key.pem"
    )


def scan(port, hosts, client):
    scanner = Scanner()
    requests = [
        ServerScanRequest(
            server_location=ServerNetworkLocation(hostname=host, port=port, ip_address="127.0.0.1"),
            network_configuration=ServerNetworkConfiguration(
                tls_server_name_indication=host, tls_client_auth_credentials=credentials
            ),
            scan_commands=COMMANDS,
        )
        for host, credentials in zip(hosts, [None, client], strict=True)
    ]
    scanner.queue_scans(requests)
    all_found = []
    for scanned in scanner.get_results():
        host = scanned.server_location.hostname
        if scanned.scan_result is None:
            found = Findings(host)
            found.want("it could be scanned", False, scanned.connectivity_error_trace)
        else:
            found = judge(host, scanned.scan_result)
        all_found.append(found)
    return all_found


def main():
    program = str(pathlib.Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory(prefix="doorward-tls.") as folder:
        command = [program, "dev", "--json", "--listen", "127.0.0.1:0", "--dir", f"{folder}/door"]
        # The door drops each connection of a scan; what it says about that is of no interest here.
        log = open(f"{folder}/log", "w", encoding="utf-8")
        door = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            ready = None
            for line in door.stdout:
                ready = json.loads(line)
                if ready["event"] == "ready":
                    break
            if not ready or ready["event"] != "ready":
                sys.exit(f"the door did not start: {pathlib.Path(folder, 'log').read_text(encoding='utf-8')}")
            port = int(ready["address"].rsplit(":", 1)[1])
            control = ready["control"].split("//")[1].split(":")[0]
            service = ready["services"]["ops-api"].split("//")[1].split(":")[0]
            found = scan(port, [control, service], signed_in(program, f"{folder}/home", ready["env"]))
        finally:
            door.terminate()
            door.wait(60)
            log.close()
    for one in found:
        print(f"{one.host}: {one.held} held, {len(one.faults)} did not")
        for fault in one.faults:
            print(f"  {fault}")
    if len(found) != 2 or any(one.faults or one.held < 18 for one in found):
        sys.exit(1)


if __name__ == "__main__":
    main()
