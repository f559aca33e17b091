//! `doorward demo` as a person runs it: the binary, its transcript and its end.

use std::process::{Command, Output};

use serde_json::Value;

use crate::support::temporary_folder;

/// Runs the demo with a folder for temporary files of its own, which has to be empty afterwards.
fn demo(arguments: &[&str]) -> Output {
    let temporary = temporary_folder();
    let output = Command::new(env!("CARGO_BIN_EXE_doorward"))
        .arg("demo")
        .args(arguments)
        .env_clear()
        .env("TMPDIR", temporary.path())
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let left: Vec<_> = std::fs::read_dir(temporary.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    output
}

#[test]
fn the_demo_plays_every_step_to_its_right_end() {
    let output = demo(&[]);
    let (text, talk) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(0), "{text}\n{talk}");
    assert_eq!(talk, "", "nothing but the transcript is printed");
    for part in [
        "TLS alert: certificate_required (116)",
        "alice $ doorward login --as alice\n      Signed in as Alice Archer (dev|alice) until ",
        "/v1/deployments/staging\n      201 Created",
        "doorward-assertion: eyJ",
        "reason    no_policy_match",
        "remedy    doorward request ops-api/deploy-prod --reason TEXT --ticket TICKET",
        "alice $ doorward why dec_",
        "dave $ doorward login --as dave",
        "carol $ doorward revoke ses_",
        "reason    session_ended",
        "erin $ doorward breakglass close brk_",
        " is on record; 1 more must review it.",
        "carol $ doorward audit export --format evidence --out ",
        "whole: ",
        "error: altered: event ",
        "error: truncated: event ",
        "✓ 13 of 13 steps ended as they should",
    ] {
        assert!(text.contains(part), "`{part}` is missing in\n{text}");
    }
    assert!(!text.contains('✗') && !text.contains('\u{1b}'), "{text}");
}

#[test]
fn the_demo_tells_its_steps_as_json() {
    let output = demo(&["-o", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    let page: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(page["next"].is_null());
    let steps = page["items"].as_array().unwrap();
    let names: Vec<_> = steps.iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "no_certificate",
            "sign_in",
            "allowed",
            "identity",
            "denied",
            "why",
            "access",
            "others",
            "revoked",
            "emergency",
            "telemetry",
            "record",
            "proof"
        ]
    );
    for step in steps {
        assert_eq!(step["ok"], true, "{step}");
        assert!(step["milliseconds"].is_u64() && step["detail"].is_string(), "{step}");
    }
}
