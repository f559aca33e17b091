//! What a measured proxy and its callers show each other: certificates of a CA made for the run,
//! and bearer tokens of a provider that is only a key set in a file.

use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use serde_json::json;

#[derive(clap::Args)]
pub struct Mint {
    /// Folder for what is made.
    #[arg(long)]
    out: PathBuf,
    /// Name in the server certificate.
    #[arg(long)]
    host: String,
    /// `iss` of the tokens.
    #[arg(long)]
    issuer: String,
    /// `aud` of the tokens.
    #[arg(long)]
    audience: String,
    /// `groups` of the tokens.
    #[arg(long = "group")]
    groups: Vec<String>,
    /// How many people get a token each.
    #[arg(long, default_value_t = 16)]
    people: usize,
}

/// Writes `ca.pem`, `server.{pem,key}`, `client.{pem,key}`, `jwks.json`, `token-N`, and says where.
pub fn mint(mint: &Mint) -> serde_json::Value {
    std::fs::create_dir_all(&mint.out).unwrap();
    certificates(&mint.out, &mint.host);
    let key = KeyPair::generate().unwrap();
    let point = key.public_key_raw();
    let half = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
    let set = json!({"keys": [{
        "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "bench",
        "x": half(&point[1..33]), "y": half(&point[33..65]),
    }]});
    write(&mint.out, "jwks.json", &set.to_string());
    let signer = EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some("bench".to_owned());
    let tokens: Vec<_> = (0..mint.people)
        .map(|number| {
            let claims = json!({
                "iss": mint.issuer, "sub": format!("person-{number}"), "aud": mint.audience,
                "iat": now, "nbf": now, "exp": now + 3600, "auth_time": now, "groups": mint.groups,
            });
            let name = format!("token-{number}");
            write(&mint.out, &name, &jsonwebtoken::encode(&header, &claims, &signer).unwrap());
            mint.out.join(name)
        })
        .collect();
    json!({ "dir": mint.out, "tokens": tokens })
}

fn certificates(out: &Path, host: &str) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.distinguished_name.push(DnType::CommonName, "benchmark CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    write(out, "ca.pem", &ca.self_signed(&ca_key).unwrap().pem());
    let issuer = Issuer::new(ca, ca_key);
    for (name, names, usage) in [
        ("server", vec![host.to_owned()], ExtendedKeyUsagePurpose::ServerAuth),
        ("client", Vec::new(), ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        write(out, &format!("{name}.pem"), &params.signed_by(&key, &issuer).unwrap().pem());
        write(out, &format!("{name}.key"), &key.serialize_pem());
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
}
