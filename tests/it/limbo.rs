//! x509-limbo's vectors against how chains are verified here (a30): those for clients against `ClientTrust`,
//! those for servers against rustls's verifier as upstreams and providers are judged by it, which finds its
//! ways by the same code. They are not ours to ship: `DOORWARD_LIMBO` names `limbo.json` of C2SP/x509-limbo
//! (Apache-2.0). Without it only what was made here by the same classes is tried (`client_chain.rs`).
//!
//! INVARIANT: what differs from the vectors stands in a table with its reason, and what no longer differs
//! does not.

use std::sync::Arc;
use std::time::Duration;

use doorward::gateway::handshake::{ClientTrust, Mandatory, TrustAnchors};
use doorward::model::Timestamp;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::Value;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::support::install_crypto;

/// When a vector that names no time is judged.
const NOW: Timestamp = Timestamp::from_seconds(1_795_341_600);

const ANCHOR: &str = "an anchor is what the operator says it is: its name, key and constraints on names count, and \
                      nothing else of it (RFC 5280 §6.1.1 (d))";
const PROFILE: &str = "an authority should not issue it so, but it names nobody who it does not name otherwise";
const KEY: &str = "a leaf's key is judged by what it signs in the handshake, where no such key is taken";
const COMMON_NAME: &str = "a common name names no server: it is not read";
const SUFFIX: &str = "no list of public suffixes is kept: a wildcard stands for one label, whoever holds it";
const STRICTER_CA: &str = "an authority is no leaf, whatever stands above it";
const STRICTER_SELF: &str = "what issued itself is counted and constrained as all others are";
const STRICTER_NAME: &str = "constraints on this form of name can't be judged here, so whom they are about is refused";

/// Chains for servers that are taken and should not be.
const SERVERS_TAKEN: &[(&str, &str)] = &[
    ("rfc5280::aki::critical-aki", PROFILE),
    ("rfc5280::aki::leaf-missing-aki", PROFILE),
    ("rfc5280::aki::intermediate-missing-aki", PROFILE),
    ("rfc5280::aki::cross-signed-root-missing-aki", PROFILE),
    ("rfc5280::nc::permitted-dns-match-noncritical", "constraints bind, critical or not"),
    ("rfc5280::nc::invalid-dnsname-leading-period", "a leading dot is read as names below it alone"),
    ("rfc5280::nc::not-allowed-in-ee-noncritical", PROFILE),
    ("rfc5280::nc::not-allowed-in-ee-critical", PROFILE),
    ("rfc5280::pc::ica-noncritical-pc", "policies of certificates are not read"),
    ("rfc5280::san::noncritical-with-empty-subject", PROFILE),
    ("rfc5280::san::underscore-dns", "names with an underscore exist, and are compared as they are"),
    ("rfc5280::serial::too-long", PROFILE),
    ("rfc5280::serial::zero", PROFILE),
    ("rfc5280::ski::critical-ski", PROFILE),
    ("rfc5280::ski::root-missing-ski", PROFILE),
    ("rfc5280::ski::intermediate-missing-ski", PROFILE),
    ("rfc5280::validity::expired-root", ANCHOR),
    ("rfc5280::ca-empty-subject", "names that are empty are compared as others are"),
    ("rfc5280::unknown-critical-extension-root", ANCHOR),
    ("rfc5280::root-missing-basic-constraints", ANCHOR),
    ("rfc5280::root-non-critical-basic-constraints", ANCHOR),
    ("rfc5280::root-inconsistent-ca-extensions", ANCHOR),
    (
        "rfc5280::leaf-ku-keycertsign",
        "it vouches for nobody: a leaf's basic constraints forbid it. A client's is refused",
    ),
    ("webpki::aki::root-with-aki-missing-keyidentifier", ANCHOR),
    ("webpki::aki::root-with-aki-authoritycertissuer", ANCHOR),
    ("webpki::aki::root-with-aki-authoritycertserialnumber", ANCHOR),
    ("webpki::aki::root-with-aki-all-fields", ANCHOR),
    ("webpki::aki::root-with-aki-ski-mismatch", ANCHOR),
    ("webpki::cn::ipv4-hex-mismatch", COMMON_NAME),
    ("webpki::cn::ipv4-leading-zeros-mismatch", COMMON_NAME),
    ("webpki::cn::ipv6-uppercase-mismatch", COMMON_NAME),
    ("webpki::cn::ipv6-uncompressed-mismatch", COMMON_NAME),
    ("webpki::cn::ipv6-non-rfc5952-mismatch", COMMON_NAME),
    ("webpki::cn::punycode-not-in-san", COMMON_NAME),
    ("webpki::cn::utf8-vs-punycode-mismatch", COMMON_NAME),
    ("webpki::cn::not-in-san", COMMON_NAME),
    ("webpki::cn::case-mismatch", COMMON_NAME),
    ("webpki::eku::ee-anyeku", "it names servers too"),
    ("webpki::eku::ee-critical-eku", PROFILE),
    ("webpki::eku::ee-without-eku", "what names no purpose is for each (RFC 5280 §4.2.1.12)"),
    ("webpki::eku::root-has-eku", ANCHOR),
    ("webpki::nc::intermediate-permitted-excluded-subtrees-both-null", "a constraint that is empty binds nobody"),
    (
        "webpki::nc::intermediate-permitted-excluded-subtrees-both-empty-sequences",
        "a constraint that is empty binds nobody",
    ),
    ("webpki::san::public-suffix-multi-label-wildcard-san", SUFFIX),
    ("webpki::san::public-suffix-private-namespace-wildcard-san", SUFFIX),
    ("webpki::san::san-critical-with-nonempty-subject", PROFILE),
    ("webpki::malformed-aia", "where an issuer could be fetched is not read: nothing is fetched"),
    ("webpki::forbidden-p192-leaf", KEY),
    ("webpki::forbidden-dsa-leaf", KEY),
    ("webpki::forbidden-weak-rsa-in-leaf", KEY),
    ("webpki::forbidden-rsa-not-divisible-by-8-in-root", "a length that is no whole byte is no weaker"),
    ("webpki::forbidden-rsa-key-not-divisible-by-8-in-leaf", "a length that is no whole byte is no weaker"),
];

/// Chains for servers that are refused and need not be.
const SERVERS_REFUSED: &[(&str, &str)] = &[
    ("pathlen::validation-ignores-pathlen-in-leaf", STRICTER_CA),
    ("pathlen::self-issued-certs-pathlen", STRICTER_SELF),
    ("rfc5280::nc::permitted-dn-match", STRICTER_NAME),
    ("rfc5280::nc::permitted-self-issued", STRICTER_SELF),
    ("rfc5280::ca-as-leaf", STRICTER_CA),
];

/// Chains that a client can show and that are taken and should not be.
const CLIENTS_TAKEN: &[(&str, &str)] =
    &[("webpki::eku::ee-without-eku", "what names no purpose is for each (RFC 5280 §4.2.1.12)")];

/// Chains of clients that are refused and need not be.
const CLIENTS_REFUSED: &[(&str, &str)] = &[
    ("pathlen::validation-ignores-pathlen-in-leaf", STRICTER_CA),
    ("rfc5280::nc::nc-permits-email-exact", STRICTER_NAME),
    ("rfc5280::nc::nc-permits-email-domain", STRICTER_NAME),
    ("rfc5280::nc::nc-permits-email-literal-asterisk-exact-match", STRICTER_NAME),
    ("rfc5280::nc::nc-permits-email-literal-double-asterisk", STRICTER_NAME),
    ("rfc5280::nc::nc-permits-email-literal-mid-asterisk", STRICTER_NAME),
    ("rfc5280::ca-as-leaf", STRICTER_CA),
];

/// One vector, as far as it is read.
struct Case {
    id: String,
    /// It is one for clients.
    client: bool,
    /// It asks for a purpose that is not a client's.
    server_alone: bool,
    holds: bool,
    anchors: Vec<CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    at: Timestamp,
    name: String,
}

impl Case {
    fn read(vector: &Value) -> Self {
        let der = |pem: &Value| CertificateDer::from_pem_slice(pem.as_str().unwrap().as_bytes()).unwrap();
        let ders = |of: &str| vector[of].as_array().unwrap().iter().map(der).collect::<Vec<_>>();
        let mut chain = vec![der(&vector["peer_certificate"])];
        chain.extend(ders("untrusted_intermediates"));
        let purposes = vector["extended_key_usage"].as_array();
        Self {
            id: vector["id"].as_str().unwrap().to_owned(),
            client: vector["validation_kind"] == "CLIENT",
            server_alone: purposes.is_some_and(|named| named.iter().any(|purpose| purpose == "serverAuth")),
            holds: vector["expected_result"] == "SUCCESS",
            anchors: ders("trusted_certs"),
            chain,
            at: vector["validation_time"].as_str().map_or(NOW, |text| Timestamp::parse(text).unwrap()),
            name: vector["expected_peer_name"]["value"].as_str().unwrap_or("example.com").to_owned(),
        }
    }

    /// The leaf names purposes, and a client's is not among them.
    fn is_no_clients(&self) -> bool {
        let Ok((_, leaf)) = X509Certificate::from_der(&self.chain[0]) else { return true };
        leaf.extended_key_usage().map_or(true, |named| named.is_some_and(|purposes| !purposes.value.client_auth))
    }

    fn holds_for_client(&self) -> Result<(), String> {
        let anchors = TrustAnchors { ours: self.anchors.clone(), ..TrustAnchors::default() };
        let trust = ClientTrust::new(&anchors, Mandatory::Yes, None).map_err(|e| e.to_string())?;
        trust.verify(&self.chain, self.at).map(drop).map_err(|e| e.to_string())
    }

    fn holds_for_server(&self) -> Result<(), String> {
        let mut roots = RootCertStore::empty();
        for der in &self.anchors {
            roots.add(der.clone()).map_err(|e| e.to_string())?;
        }
        let verifier = WebPkiServerVerifier::builder(Arc::new(roots)).build().map_err(|e| e.to_string())?;
        let name = ServerName::try_from(self.name.clone()).map_err(|e| e.to_string())?;
        let at = UnixTime::since_unix_epoch(Duration::from_millis(self.at.millis().unsigned_abs()));
        let (leaf, between) = self.chain.split_first().unwrap();
        verifier.verify_server_cert(leaf, between, &name, &[], at).map(drop).map_err(|e| e.to_string())
    }
}

/// The vectors that are about something that is done here.
fn cases() -> Option<Vec<Case>> {
    let Some(path) = std::env::var_os("DOORWARD_LIMBO") else {
        println!("note: left out; `DOORWARD_LIMBO` names `limbo.json` of C2SP/x509-limbo");
        return None;
    };
    install_crypto();
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let vectors = file["testcases"].as_array().unwrap();
    let is_ours = |vector: &&Value| {
        let needs = |feature: &str| {
            vector["features"].as_array().is_some_and(|features| features.iter().any(|named| named == feature))
        };
        // No lists of revoked certificates are read, and nobody sets a depth. BetterTLS is a suite of its own.
        !needs("has-crl") && !needs("max-chain-depth") && !vector["id"].as_str().unwrap().starts_with("bettertls::")
    };
    let cases: Vec<Case> = vectors.iter().filter(is_ours).map(Case::read).collect();
    assert!(cases.len() > 100, "{} vectors", cases.len());
    Some(cases)
}

/// What differs without a reason, and what has a reason and does not differ or is not there.
fn unexplained(
    judged: &[(&Case, Result<(), String>)],
    taken: &[(&str, &str)],
    refused: &[(&str, &str)],
) -> Vec<String> {
    let mut wrong = Vec::new();
    for (table, holds) in [(taken, false), (refused, true)] {
        let differs = |id: &str| {
            judged.iter().any(|(case, outcome)| case.id == id && case.holds == holds && outcome.is_ok() != holds)
        };
        let stale = table.iter().filter(|(id, _)| !differs(id));
        wrong.extend(stale.map(|(id, _)| format!("{id} has a reason to differ, and does not")));
    }
    for (case, outcome) in judged {
        let table = if case.holds { refused } else { taken };
        if case.holds != outcome.is_ok() && !table.iter().any(|(id, _)| *id == case.id) {
            wrong.push(format!("{} came out as {outcome:?}", case.id));
        }
    }
    wrong
}

#[test]
fn a30_published_chains_vouch_for_clients_as_published() {
    let Some(cases) = cases() else { return };
    let (clients, others): (Vec<&Case>, Vec<&Case>) =
        cases.iter().partition(|case| case.client || !case.server_alone && !case.is_no_clients());
    let judged: Vec<_> = clients.into_iter().map(|case| (case, case.holds_for_client())).collect();
    let mut wrong = unexplained(&judged, CLIENTS_TAKEN, CLIENTS_REFUSED);
    // Whoever is a server by its own certificate is no client by it.
    let servers: Vec<_> = others.into_iter().filter(|case| case.is_no_clients()).collect();
    wrong.extend(
        servers.iter().filter(|case| case.holds_for_client().is_ok()).map(|case| format!("{} is taken", case.id)),
    );
    println!("{} chains of clients, {} of servers alone", judged.len(), servers.len());
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn a30_published_chains_vouch_for_servers_as_published() {
    let Some(cases) = cases() else { return };
    let judged: Vec<_> = cases.iter().filter(|case| !case.client).map(|case| (case, case.holds_for_server())).collect();
    println!("{} chains of servers", judged.len());
    assert_eq!(unexplained(&judged, SERVERS_TAKEN, SERVERS_REFUSED), Vec::<String>::new());
}
