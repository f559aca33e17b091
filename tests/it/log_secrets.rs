//! The log of the real program when it says the most that it can: what libraries say included, none of what
//! clients proved themselves with is in it (a63).

use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use doorward::cli::dial;
use doorward::server::dev::door::DOMAIN;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::crash::{HUNG, Installation, PROGRAM, installation, upstream};
use crate::support::{install_crypto, temporary_folder};

/// What alice's program prints.
async fn program(installation: &Installation, arguments: &[&str]) -> String {
    let output = Command::new(PROGRAM)
        .args(arguments)
        .env_clear()
        .env("DOORWARD_HOME", installation.folder.path().join("home"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a63_a_log_that_says_everything_says_no_secret() {
    install_crypto();
    let folder = temporary_folder();
    let mut tasks = JoinSet::new();
    let (upstream, served) = upstream(&mut tasks).await;
    let url = format!("sqlite://{}", folder.path().join("log.db").display());
    let installation = installation(&url, upstream, &mut tasks).await;
    let mut child = installation.spawn_with(&[("DOORWARD_LOG", "trace")]);
    let began = Instant::now();
    while !installation.ready().await {
        assert!(began.elapsed() < HUNG, "{}", installation.told());
        sleep(Duration::from_millis(20)).await;
    }
    let identity = installation.sign_in().await;
    let nobody = dial::tls_settings(
        Some(&std::fs::read_to_string(installation.folder.path().join("keys/ca.crt")).unwrap()),
        None,
    );
    let nobody = nobody.unwrap();
    let token = program(&installation, &["token", "--service", "ops-api"]).await;
    let control = DOMAIN.to_owned();
    for (tls, host, request) in [
        (&identity, format!("ops-api.{DOMAIN}"), Request::post("/echo/1?a=CANARY1xyz")),
        (&identity, format!("ops-api.{DOMAIN}"), Request::get("/echo/2").header("doorward-token", &token)),
        (&identity, format!("ops-api.{DOMAIN}"), Request::get("/echo/3").header("doorward-token", "CANARY2xyz")),
        (
            &nobody,
            control.clone(),
            Request::get("/api/v1/whoami?a=CANARY3xyz").header("authorization", "Bearer CANARY4xyz"),
        ),
        (&nobody, control.clone(), Request::get("/requests").header("cookie", "__Host-doorward=CANARY5xyz")),
        (&nobody, control, Request::post("/oauth2/token").header("content-type", "application/x-www-form-urlencoded")),
    ] {
        let request = request
            .header("host", format!("{host}:{}", installation.door.port()))
            .header("x-api-key", "CANARY6xyz")
            .header("dpop", "CANARY7xyz")
            .body(Full::new(Bytes::from_static(
                b"grant_type=authorization_code&code=CANARY8xyz&code_verifier=CANARY9xyz&client_id=doorward-cli\
                  &redirect_uri=http://127.0.0.1:1/callback",
            )))
            .unwrap();
        let stream = dial::connect(&host, installation.door.port()).await.unwrap();
        let stream = dial::secure(stream, &host, installation.door.port(), std::sync::Arc::clone(tls)).await.unwrap();
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tasks.spawn(async move {
            // The door may end it first.
            let _ = connection.await;
        });
        sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    }
    assert!(served.lock().unwrap().contains("/echo/2"), "the token is good");
    sleep(Duration::from_secs(1)).await;
    let log = installation.told();
    assert!(log.lines().count() > 100 && log.contains("\"level\":\"TRACE\""), "{} lines", log.lines().count());
    let profile =
        std::fs::read_to_string(installation.folder.path().join("home/profiles/default/profile.json")).unwrap();
    let profile: serde_json::Value = serde_json::from_str(&profile).unwrap();
    let mut secrets = vec!["CANARY".to_owned(), token.rsplit('.').next().unwrap().to_owned()];
    // Refresh and access token, and whatever else of that length is kept.
    for (name, value) in profile.as_object().unwrap() {
        secrets.extend(value.as_str().filter(|_| name.contains("token")).map(str::to_owned));
    }
    assert!(secrets.len() > 2, "the profile keeps a token: {:?}", profile.as_object().unwrap().keys());
    for secret in secrets {
        let line = log.lines().find(|line| line.contains(&secret));
        assert!(line.is_none(), "`{secret:.12}…` is in the log: {}", line.unwrap_or_default());
    }
    child.kill().await.unwrap();
}
