//! Chains of client certificates, by the classes of faults of x509-limbo (a30): who may vouch, for
//! how long, for which use, through which intermediates; and what a name in a certificate may be.

use std::sync::Arc;

use doorward::gateway::handshake::{ClientTrust, Mandatory, SpiffeAnchors, TlsSide, TrustAnchors, asked_name};
use doorward::identity::certificate::{CertificateError, ClientCertificate, Issuer as Vouches};
use doorward::model::{SessionId, Timestamp, Ttl};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::support::install_crypto;

const SESSION: &str = "ses_06h01rs2cto0b2afh7rgi8mlbg";
const NOW: i64 = 1_795_341_600;

fn now() -> Timestamp {
    Timestamp::from_seconds(NOW)
}

/// A certificate with its key, to sign others with.
struct Made {
    params: CertificateParams,
    key: KeyPair,
    der: CertificateDer<'static>,
}

fn params(name: &str, from_hours: i64, to_hours: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let at = |hours: i64| OffsetDateTime::from_unix_timestamp(NOW + hours * 3600).unwrap();
    (params.not_before, params.not_after) = (at(from_hours), at(to_hours));
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(name, -1, 1000);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A leaf as our authority makes it for a session.
fn leaf() -> CertificateParams {
    let mut params = params(SESSION, -1, 1);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![SanType::URI(format!("doorward:session:{SESSION}").try_into().unwrap())];
    params
}

fn root(params: CertificateParams) -> Made {
    let key = KeyPair::generate().unwrap();
    let der = params.self_signed(&key).unwrap().der().clone();
    Made { params, key, der }
}

fn under(issuer: &Made, params: CertificateParams) -> Made {
    let key = KeyPair::generate().unwrap();
    let by = Issuer::from_params(&issuer.params, &issuer.key);
    let der = params.signed_by(&key, &by).unwrap().der().clone();
    Made { params, key, der }
}

fn trust(ours: &Made, devices: &[&Made], spiffe: &[&Made]) -> ClientTrust {
    install_crypto();
    let der = |made: &&Made| made.der.clone();
    let authorities: Vec<_> = spiffe.iter().map(der).collect();
    let mesh = SpiffeAnchors { trust_domain: "example.com".to_owned(), authorities };
    let spiffe = Vec::from_iter((!mesh.authorities.is_empty()).then_some(mesh));
    let anchors = TrustAnchors { ours: vec![ours.der.clone()], devices: devices.iter().map(der).collect(), spiffe };
    ClientTrust::new(&anchors, Mandatory::Yes, None).unwrap()
}

fn chain(made: &[&Made]) -> Vec<CertificateDer<'static>> {
    made.iter().map(|made| made.der.clone()).collect()
}

#[test]
fn a30_only_a_chain_that_is_good_in_every_link_vouches() {
    let ours = root(authority("Ours"));
    let trust = trust(&ours, &[], &[]);
    let holds = |made: &[&Made]| trust.verify(&chain(made), now());
    assert_eq!(holds(&[&under(&ours, leaf())]).unwrap(), Vouches::Ours);
    let between = under(&ours, authority("Between"));
    let good = under(&between, leaf());
    assert!(holds(&[&good, &between]).is_ok());
    assert!(holds(&[&good]).is_err(), "the intermediate is missing");
    assert!(holds(&[]).is_err() && holds(&[&between]).is_err(), "an authority is no client");
    assert!(holds(&[&ours]).is_err(), "the anchor itself is no client");

    let mut bad: Vec<(&str, Vec<Made>)> = Vec::new();
    let of = |change: fn(&mut CertificateParams)| {
        let mut params = leaf();
        change(&mut params);
        vec![under(&ours, params)]
    };
    let at = |hours: i64| OffsetDateTime::from_unix_timestamp(NOW + hours * 3600).unwrap();
    let dated = |from: i64, to: i64| {
        let mut params = leaf();
        (params.not_before, params.not_after) = (at(from), at(to));
        vec![under(&ours, params)]
    };
    bad.push(("over", dated(-2, -1)));
    bad.push(("not begun", dated(1, 2)));
    bad.push(("for servers", of(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])));
    bad.push(("for code", of(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning])));
    bad.push(("an authority as a leaf", of(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))));
    bad.push((
        "a critical extension that nobody knows",
        of(|p| {
            let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
            extension.set_criticality(true);
            p.custom_extensions = vec![extension];
        }),
    ));
    bad.push(("self-signed", vec![root(leaf())]));
    let stranger = root(authority("Stranger"));
    bad.push(("of a stranger", vec![under(&stranger, leaf())]));
    let namesake = root(authority("Ours"));
    bad.push(("of a namesake of ours", vec![under(&namesake, leaf())]));
    bad.push(("of a namesake that comes along", {
        let leaf = under(&namesake, leaf());
        vec![leaf, root(authority("Ours"))]
    }));
    let through = |change: fn(&mut CertificateParams)| {
        let mut params = authority("Between");
        change(&mut params);
        let between = under(&ours, params);
        let leaf = under(&between, leaf());
        vec![leaf, between]
    };
    bad.push(("through one that is no authority", through(|p| p.is_ca = IsCa::ExplicitNoCa)));
    bad.push(("through one that says nothing", through(|p| p.is_ca = IsCa::NoCa)));
    bad.push((
        "through one for servers",
        through(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
    ));
    bad.push(("through one that is over", {
        let mut params = authority("Between");
        (params.not_before, params.not_after) = (at(-3), at(-1));
        let between = under(&ours, params);
        let leaf = under(&between, leaf());
        vec![leaf, between]
    }));
    bad.push(("through a session's own certificate", {
        let session = under(&ours, leaf());
        let next = under(&session, leaf());
        vec![next, session]
    }));
    bad.push(("deeper than its path length", {
        let mut params = authority("Short");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let short = under(&ours, params);
        let deeper = under(&short, authority("Deeper"));
        let leaf = under(&deeper, leaf());
        vec![leaf, deeper, short]
    }));
    for (what, made) in &bad {
        let made: Vec<&Made> = made.iter().collect();
        assert!(holds(&made).is_err(), "{what} was taken");
    }
    // A flipped bit anywhere is no certificate of ours.
    let good = under(&ours, leaf());
    for place in (0..good.der.len()).step_by(7) {
        let mut bytes = good.der.to_vec();
        bytes[place] ^= 1;
        assert!(trust.verify(&[CertificateDer::from(bytes)], now()).is_err(), "byte {place}");
    }
    for length in (0..good.der.len()).step_by(13) {
        let bytes = good.der[..length].to_vec();
        assert!(trust.verify(&[CertificateDer::from(bytes)], now()).is_err(), "{length} bytes");
    }
}

#[test]
fn a30_a_key_does_what_its_usage_says_and_nothing_else() {
    let ours = root(authority("Ours"));
    let trust = trust(&ours, &[], &[]);
    let holds = |made: &[&Made]| trust.verify(&chain(made), now());
    let using = |usages: &[KeyUsagePurpose]| {
        let mut params = leaf();
        params.key_usages = usages.to_vec();
        under(&ours, params)
    };
    let (signs, vouches) = (KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign);
    assert!(holds(&[&using(&[])]).is_ok(), "what says nothing forbids nothing");
    assert!(holds(&[&using(&[signs, KeyUsagePurpose::KeyEncipherment])]).is_ok());
    assert!(holds(&[&using(&[KeyUsagePurpose::KeyEncipherment])]).is_err(), "a key that signs no handshake");
    assert!(holds(&[&using(&[signs, vouches])]).is_err(), "a client that vouches for others");
    let through = |usages: &[KeyUsagePurpose]| {
        let mut params = authority("Between");
        params.key_usages = usages.to_vec();
        let between = under(&ours, params);
        (under(&between, leaf()), between)
    };
    for (usages, vouching) in
        [(vec![], true), (vec![vouches], true), (vec![signs], false), (vec![KeyUsagePurpose::CrlSign], false)]
    {
        let (client, between) = through(&usages);
        assert_eq!(holds(&[&client, &between]).is_ok(), vouching, "{usages:?}");
        // One that can't vouch is passed over, also where it comes along with one that can.
        let (other, good) = through(&[vouches]);
        assert!(holds(&[&other, &between, &good]).is_ok() && holds(&[&other, &good, &between]).is_ok());
    }
    let purposes = |purposes: &[ExtendedKeyUsagePurpose]| {
        let mut params = leaf();
        params.extended_key_usages = purposes.to_vec();
        under(&ours, params)
    };
    let (any, client, server) =
        (ExtendedKeyUsagePurpose::Any, ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth);
    assert!(holds(&[&purposes(&[])]).is_ok(), "what names no purpose is for each (RFC 5280 §4.2.1.12)");
    assert!(holds(&[&purposes(&[server.clone(), client])]).is_ok());
    assert!(holds(&[&purposes(std::slice::from_ref(&any))]).is_err(), "any purpose is none that was named");
    assert!(holds(&[&purposes(&[any, server])]).is_err());
}

/// An authority's constraint on names, DER by hand: rcgen writes none on URIs (RFC 5280 §4.2.1.10).
/// `kind` is 0 for permitted and 1 for excluded, `tag` that of the form of name.
fn constraint(kind: u8, tag: u8, base: &[u8]) -> CustomExtension {
    let within = |tag: u8, inner: &[u8]| [&[tag, u8::try_from(inner.len()).unwrap()], inner].concat();
    let subtree = within(0x30, &within(tag, base));
    let content = within(0x30, &within(0xa0 | kind, &subtree));
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], content);
    extension.set_criticality(true);
    extension
}

#[test]
fn a30_an_authority_names_only_whom_it_may() {
    const PERMITTED: u8 = 0;
    const EXCLUDED: u8 = 1;
    const EMAIL: u8 = 0x81;
    const DNS: u8 = 0x82;
    const URI: u8 = 0x86;
    const ADDRESS: u8 = 0x87;
    let session = || SanType::URI(format!("doorward:session:{SESSION}").try_into().unwrap());
    let dns = |name: &str| SanType::DnsName(name.to_owned().try_into().unwrap());
    let email = || SanType::Rfc822Name("a@example.com".to_owned().try_into().unwrap());
    let address = |last: u8| SanType::IpAddress(std::net::IpAddr::from([192, 0, 2, last]));
    let net = [192, 0, 2, 0, 255, 255, 255, 128];
    for (what, constraint, name, taken) in [
        ("permitted", constraint(PERMITTED, DNS, b"example.com"), dns("a.example.com"), true),
        ("not permitted", constraint(PERMITTED, DNS, b"example.com"), dns("a.example.org"), false),
        ("not permitted, it only ends so", constraint(PERMITTED, DNS, b"example.com"), dns("anexample.com"), false),
        ("excluded", constraint(EXCLUDED, DNS, b"example.com"), dns("a.example.com"), false),
        ("excluded, in other letters", constraint(EXCLUDED, DNS, b"example.com"), dns("A.EXAMPLE.com"), false),
        ("not excluded", constraint(EXCLUDED, DNS, b"example.com"), dns("a.example.org"), true),
        ("a permitted address", constraint(PERMITTED, ADDRESS, &net), address(1), true),
        ("an address that is not", constraint(PERMITTED, ADDRESS, &net), address(129), false),
        ("an excluded address", constraint(EXCLUDED, ADDRESS, &net), address(1), false),
        ("of another form", constraint(PERMITTED, DNS, b"example.com"), address(1), true),
        // What webpki can't judge it refuses, and so do we: mail and URIs, permitted or not.
        ("mail", constraint(PERMITTED, EMAIL, b"example.com"), email(), false),
        ("no mail", constraint(EXCLUDED, EMAIL, b"example.com"), dns("example.com"), true),
        ("another session", constraint(EXCLUDED, URI, b"other.example"), dns("example.com"), false),
        ("a session", constraint(PERMITTED, URI, b"example.com"), dns("example.com"), false),
    ] {
        let mut constrained = authority("Constrained");
        constrained.custom_extensions = vec![constraint];
        let mut client = leaf();
        client.subject_alt_names = vec![session(), name];
        // It binds as the anchor, as the last authority and as one above it.
        let anchor = root(constrained.clone());
        let own = trust(&anchor, &[], &[]);
        assert_eq!(own.verify(&chain(&[&under(&anchor, client.clone())]), now()).is_ok(), taken, "{what}: anchor");
        let ours = root(authority("Ours"));
        let trust = trust(&ours, &[], &[]);
        let upper = under(&ours, constrained);
        let last = under(&upper, client.clone());
        assert_eq!(trust.verify(&chain(&[&last, &upper]), now()).is_ok(), taken, "{what}: last");
        let lower = under(&upper, authority("Lower"));
        let last = under(&lower, client);
        assert_eq!(trust.verify(&chain(&[&last, &lower, &upper]), now()).is_ok(), taken, "{what}: above");
    }
}

#[test]
fn a30_authorities_in_a_circle_or_a_crowd_come_to_an_end() {
    let ours = root(authority("Ours"));
    let trust = trust(&ours, &[], &[]);
    let holds = |made: &[CertificateDer<'static>]| trust.verify(made, now()).is_ok();
    let ends = |made: &[CertificateDer<'static>], taken: bool| {
        let began = std::time::Instant::now();
        assert_eq!(holds(made), taken);
        assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
    };
    // Two that signed each other, and nobody that we trust either.
    let (one, two) = (root(authority("One")), root(authority("Two")));
    let crossed = |by: &Made, of: &Made| {
        let issuer = Issuer::from_params(&by.params, &by.key);
        of.params.signed_by(&of.key, &issuer).unwrap().der().clone()
    };
    let client = under(&one, leaf()).der;
    ends(&[client.clone(), crossed(&two, &one), crossed(&one, &two)], false);
    // Once one of them is vouched for by ours, the way out is found.
    ends(&[client, crossed(&two, &one), crossed(&one, &two), crossed(&ours, &two)], true);
    // The good way is found among many namesakes, and a hundred steps are too many.
    let good = under(&ours, authority("Between"));
    let stranger = root(authority("Stranger"));
    let mut crowd = vec![under(&good, leaf()).der];
    crowd.extend((0..20).map(|_| under(&stranger, authority("Between")).der));
    crowd.push(good.der.clone());
    ends(&crowd, true);
    let mut steps = vec![];
    let mut above = under(&ours, authority("Step 0"));
    for step in 1..100 {
        let next = under(&above, authority(&format!("Step {step}")));
        steps.push(std::mem::replace(&mut above, next).der);
    }
    let mut far = vec![under(&above, leaf()).der, above.der.clone()];
    far.extend(steps.into_iter().rev());
    ends(&far, false);
}

#[test]
fn a30_a_maze_of_authorities_costs_no_more_than_its_bound() {
    let ours = root(authority("Ours"));
    let trust = trust(&ours, &[], &[]);
    // Sixty authorities of one name and different keys: each could have signed each (x509-limbo's pathological).
    let last = root(authority("Maze"));
    let client = under(&last, leaf());
    let mut made = vec![client.der.clone()];
    let mut before = root(authority("Maze"));
    for _ in 0..60 {
        let next = under(&before, authority("Maze"));
        made.push(next.der.clone());
        before = next;
    }
    let began = std::time::Instant::now();
    assert!(trust.verify(&made, now()).is_err());
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn a30_each_kind_of_authority_vouches_for_its_own_kind_alone() {
    let (ours, devices, spiffe) = (root(authority("Ours")), root(authority("Devices")), root(authority("Mesh")));
    let trust = trust(&ours, &[&devices], &[&spiffe]);
    let holds = |made: &[&Made]| trust.verify(&chain(made), now());
    assert_eq!(holds(&[&under(&devices, leaf())]).unwrap(), Vouches::Device);
    let machine = |id: &str| {
        let mut params = leaf();
        params.subject_alt_names = vec![SanType::URI(id.to_owned().try_into().unwrap())];
        under(&spiffe, params)
    };
    assert_eq!(holds(&[&machine("spiffe://example.com/a")]).unwrap(), Vouches::Spiffe);
    // A mesh names its own machines, and neither another domain's nor sessions.
    assert!(holds(&[&machine("spiffe://other.example/a")]).is_err() && holds(&[&under(&spiffe, leaf())]).is_err());
    // An authority of devices that calls itself like ours signs nothing of ours.
    let posing = under(&devices, authority("Ours"));
    let leaf_of = under(&posing, leaf());
    assert!(holds(&[&leaf_of]).is_err());
    let as_device = holds(&[&leaf_of, &posing]);
    assert!(as_device.is_err() || as_device.unwrap() == Vouches::Device);
    // One of ours put along with it changes nothing.
    let real = under(&ours, leaf());
    for order in [[&leaf_of, &posing, &real], [&leaf_of, &real, &posing]] {
        let outcome = holds(&order);
        assert!(outcome.is_err() || outcome.unwrap() != Vouches::Ours);
    }
}

#[test]
fn a30_a_name_that_is_none_names_nobody() {
    let ours = root(authority("Ours"));
    let uri = |text: &str| SanType::URI(text.to_owned().try_into().unwrap());
    let read = |names: Vec<SanType>, vouches| {
        let mut params = leaf();
        params.subject_alt_names = names;
        ClientCertificate::read(&under(&ours, params).der, vouches)
    };
    let session = format!("doorward:session:{SESSION}");
    let named = read(vec![uri(&session)], Vouches::Ours).unwrap();
    assert_eq!(named.session, SessionId::parse(SESSION).ok());
    let other = format!("doorward:session:{}", SESSION.replace("06h0", "06h1"));
    for names in [
        vec![],
        vec![uri(&session), uri(&other)],
        vec![uri(&session), uri(&session)],
        vec![uri(&session.to_uppercase())],
        vec![uri(&format!("{session}\u{0}"))],
        vec![uri(&format!(" {session}"))],
        vec![uri(&format!("{session}/"))],
        vec![uri(&session.replace("session", "Session"))],
        vec![uri("doorward:session:*")],
        vec![uri("doorward:session:")],
        vec![SanType::DnsName(SESSION.replace('_', "-").try_into().unwrap())],
        vec![SanType::Rfc822Name("a@example.com".to_owned().try_into().unwrap())],
    ] {
        assert_eq!(read(names.clone(), Vouches::Ours), Err(CertificateError::NoSession), "{names:?}");
    }
    for names in [
        vec![],
        vec![uri("https://example.com/a")],
        vec![uri("SPIFFE://example.com/a")],
        vec![uri("spiffe://example.com/a"), uri("spiffe://example.com/b")],
        vec![uri("spiffe://example.com/a"), uri("https://example.com/a")],
    ] {
        assert_eq!(read(names.clone(), Vouches::Spiffe), Err(CertificateError::NoSpiffeId), "{names:?}");
    }
    // What the subject says never names a session, and bytes behind the certificate make it none.
    let mut params = leaf();
    params.subject_alt_names = vec![];
    let der = under(&ours, params).der;
    assert_eq!(ClientCertificate::read(&der, Vouches::Ours), Err(CertificateError::NoSession));
    let mut longer = under(&ours, leaf()).der.to_vec();
    longer.push(0);
    assert_eq!(ClientCertificate::read(&longer, Vouches::Ours), Err(CertificateError::Unreadable));
}

#[test]
fn a30_a_certificate_ends_to_the_second() {
    let ours = root(authority("Ours"));
    let trust = trust(&ours, &[], &[]);
    let made = under(&ours, leaf());
    let one = chain(&[&made]);
    let ends = Timestamp::from_seconds(NOW + 3600);
    assert!(trust.verify(&one, ends.minus(Ttl::seconds(1))).is_ok());
    assert!(trust.verify(&one, ends.plus(Ttl::seconds(1))).is_err());
    let read = ClientCertificate::read(&made.der, Vouches::Ours).unwrap();
    assert!(read.is_current(ends.minus(Ttl::millis(1))) && !read.is_current(ends));
    assert!(!read.is_current(Timestamp::from_seconds(NOW - 3601)));
}

#[test]
fn a29_the_asked_name_is_one_spelling_or_none() {
    for (asked, name) in [
        (Some("App.Doorward.LOCALHOST"), Some("app.doorward.localhost")),
        (Some("app.doorward.localhost."), Some("app.doorward.localhost")),
        (Some("app.doorward.localhost.."), Some("app.doorward.localhost.")),
        (Some("."), None),
        (Some(""), None),
        (None, None),
    ] {
        assert_eq!(asked_name(asked).as_deref(), name, "{asked:?}");
    }
}

#[test]
fn a32_a_side_without_authority_or_with_a_key_of_another_is_not_built() {
    install_crypto();
    let (ours, server) = (root(authority("Ours")), root(leaf()));
    let key = |made: &Made| rustls::pki_types::PrivateKeyDer::try_from(made.key.serialize_der()).unwrap();
    let anchors = TrustAnchors { ours: vec![ours.der.clone()], ..TrustAnchors::default() };
    let whole = |chain, key, anchors: &TrustAnchors| TlsSide::new(chain, key, anchors, None).map(Arc::new);
    assert!(whole(vec![server.der.clone()], key(&server), &anchors).is_ok());
    assert!(whole(vec![], key(&server), &anchors).is_err());
    assert!(whole(vec![server.der.clone()], key(&ours), &anchors).is_err());
    assert!(whole(vec![server.der.clone()], key(&server), &TrustAnchors::default()).is_err());
    let broken = TrustAnchors { ours: vec![CertificateDer::from(vec![48, 3, 2, 1])], ..TrustAnchors::default() };
    assert!(whole(vec![server.der.clone()], key(&server), &broken).is_err());
}
