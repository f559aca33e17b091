//! What a session leaves on a machine.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use doorward::cli::environment::Environment;
use doorward::cli::origin::Origin;
use doorward::cli::profile::{Profile, ProfileError, ProfileRecord, SavedSession, home};
use doorward::model::Timestamp;
use doorward::wire::{Principal, Time};

use crate::support::temporary_folder;

fn session(refresh_token: &str) -> SavedSession {
    let at = Time(Timestamp::from_seconds(1_800_000_000));
    SavedSession {
        record: ProfileRecord {
            server: "https://doorward.localhost:8443".to_owned(),
            session: "ses_1".to_owned(),
            principal: Principal { kind: "User".to_owned(), id: "dev|alice".to_owned(), name: None, email: None },
            expires_at: at,
            certificate_since: at,
            certificate_expires_at: at,
            refresh_token: refresh_token.to_owned(),
            refresh_token_expires_at: at,
            audit_key: None,
        },
        key_pem: "key".to_owned(),
        certificate_pem: "certificate".to_owned(),
        ca_pem: Some("ca".to_owned()),
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_profile_is_read_as_it_was_written_and_open_to_its_owner_only() {
    let folder = temporary_folder();
    let home = folder.path().join("deep/home");
    let profile = Profile::at(&home, "work").unwrap();
    assert!(profile.load().unwrap().is_none());
    let lock = profile.lock().unwrap();
    profile.save(&lock, &session("one")).unwrap();
    drop(lock);
    let loaded = profile.load().unwrap().unwrap();
    assert_eq!(loaded.record.refresh_token, "one");
    assert_eq!(loaded.key_pem, "key");
    assert_eq!(loaded.ca_pem.as_deref(), Some("ca"));
    assert_eq!(mode(&home), 0o700);
    assert_eq!(mode(&home.join("profiles")), 0o700);
    assert_eq!(mode(&home.join("profiles/work")), 0o700);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(home.join("profiles/work")).unwrap().flatten() {
        assert_eq!(mode(&entry.path()), 0o600, "{:?}", entry.path());
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["ca.pem", "certificate.pem", "key.pem", "profile.json"]);
}

#[test]
fn an_open_folder_is_closed_before_a_key_is_put_into_it() {
    let folder = temporary_folder();
    let open = folder.path().join("profiles/default");
    std::fs::create_dir_all(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
    let profile = Profile::at(folder.path(), "default").unwrap();
    profile.save(&profile.lock().unwrap(), &session("one")).unwrap();
    assert_eq!(mode(&open), 0o700);
}

#[test]
fn a_renewal_replaces_record_and_certificate_and_keeps_the_key() {
    let folder = temporary_folder();
    let profile = Profile::at(folder.path(), "default").unwrap();
    let lock = profile.lock().unwrap();
    profile.save(&lock, &session("one")).unwrap();
    profile.renew(&lock, &session("two").record, Some("newer")).unwrap();
    let loaded = profile.load_locked(&lock).unwrap().unwrap();
    assert_eq!((loaded.record.refresh_token.as_str(), loaded.certificate_pem.as_str()), ("two", "newer"));
    assert_eq!(loaded.key_pem, "key");
}

#[test]
fn without_its_record_nobody_is_signed_in() {
    let folder = temporary_folder();
    let profile = Profile::at(folder.path(), "default").unwrap();
    profile.save(&profile.lock().unwrap(), &session("one")).unwrap();
    // What a crash in the midst of a sign-in leaves.
    std::fs::remove_file(folder.path().join("profiles/default/profile.json")).unwrap();
    assert!(profile.load().unwrap().is_none());
}

#[test]
fn a_damaged_record_is_named_and_not_taken() {
    let folder = temporary_folder();
    let profile = Profile::at(folder.path(), "default").unwrap();
    profile.save(&profile.lock().unwrap(), &session("one")).unwrap();
    std::fs::write(folder.path().join("profiles/default/profile.json"), "{").unwrap();
    let Err(error) = profile.load() else { panic!("it was taken") };
    assert!(matches!(&error, ProfileError::Damaged { path, .. } if path.ends_with("profile.json")), "{error}");
}

#[test]
fn signing_out_removes_everything_but_what_others_put_there() {
    let folder = temporary_folder();
    let place = folder.path().join("profiles/default");
    let profile = Profile::at(folder.path(), "default").unwrap();
    let lock = profile.lock().unwrap();
    profile.save(&lock, &session("one")).unwrap();
    profile.remove(&lock).unwrap();
    assert!(!place.exists());
    profile.remove(&lock).unwrap();
    profile.save(&lock, &session("one")).unwrap();
    std::fs::write(place.join("notes.txt"), "mine").unwrap();
    profile.remove(&lock).unwrap();
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 1);
}

#[test]
fn a_profiles_name_can_not_lead_elsewhere() {
    for name in ["", ".", "..", "../x", "a/b", ".hidden", "a b", "ü", &"x".repeat(65)] {
        assert!(matches!(Profile::at(Path::new("/h"), name), Err(ProfileError::Name(_))), "{name}");
    }
    for name in ["default", "work-2", "A.b_c"] {
        assert!(Profile::at(Path::new("/h"), name).is_ok(), "{name}");
    }
}

#[test]
fn the_lock_lets_one_in_at_a_time() {
    let folder = temporary_folder();
    let profile = Profile::at(folder.path(), "default").unwrap();
    let first_is_done = AtomicBool::new(false);
    let lock = profile.lock().unwrap();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| {
            let _lock = profile.lock().unwrap();
            first_is_done.load(Ordering::SeqCst)
        });
        first_is_done.store(true, Ordering::SeqCst);
        drop(lock);
        assert!(second.join().unwrap());
    });
}

#[test]
fn profiles_are_where_the_environment_says() {
    let environment = Environment::of(&[("DOORWARD_HOME", "/somewhere")]);
    assert_eq!(home(&environment).unwrap(), Path::new("/somewhere"));
}

#[test]
fn a_servers_address_is_https_and_nothing_but_host_and_port() {
    for (text, canonical) in [
        ("https://Doorward.Example.COM", "https://doorward.example.com"),
        ("https://doorward.example.com/", "https://doorward.example.com"),
        ("https://doorward.example.com.:443", "https://doorward.example.com"),
        ("https://doorward.localhost:8443", "https://doorward.localhost:8443"),
        ("https://[::1]:8443", "https://[::1]:8443"),
    ] {
        assert_eq!(Origin::parse(text).unwrap().to_string(), canonical);
    }
    for text in [
        "http://doorward.example.com",
        "doorward.example.com",
        "doorward.example.com:8443",
        "https://",
        "https://user@doorward.example.com",
        "https://doorward.example.com/path",
        "https://doorward.example.com?x",
        "https://doorward.example.com#x",
        "ftp://doorward.example.com",
        "",
    ] {
        assert!(Origin::parse(text).is_err(), "{text}");
    }
    for (text, loopback) in [
        ("https://doorward.localhost", true),
        ("https://localhost:1", true),
        ("https://127.0.0.9", true),
        ("https://[::1]", true),
        ("https://doorward.localhost.example.com", false),
        ("https://notlocalhost", false),
    ] {
        assert_eq!(Origin::parse(text).unwrap().is_loopback(), loopback, "{text}");
    }
}
