//! Files that change while it runs, and the end: a27, a32, a66.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use doorward::audit::EventType;
use doorward::credential::authority::Authority;
use doorward::gateway::worker::Worker;
use doorward::model::{Clock, Ttl};
use doorward::server::ambient::SystemEntropy;
use doorward::store::{EventFilter, Store};
use http::Method;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;

use super::fixture::{BOTH, POLICY, Plan, Speaks, host, read, service_toml, with_door, with_stopping_door};

#[test]
fn a66_bad_files_change_nothing_and_good_ones_everything_on_open_connections() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let mut clients = Vec::new();
        for speaks in BOTH {
            clients.push(door.client("app", Some(&alice), speaks).await);
        }
        let toml = std::fs::read_to_string(door.dir.join("policies/app/service.toml")).unwrap();
        let bad: Vec<(&str, String)> = vec![
            ("app/access.cedar", "permit (".to_owned()),
            ("app/access.cedar", POLICY.replace("principal in", "principal.grups in")),
            ("app/access.cedar", POLICY.replace("\"open\"", "\"opne\"")),
            ("app/access.cedar", "\u{0}\u{1}".to_owned()),
            ("app/service.toml", toml.replace("upstreams", "upstraems")),
            ("app/service.toml", toml.replace("upstreams = [", "upstreams = [[")),
            ("app/service.toml", String::new()),
            ("app/service.toml", toml[..toml.len() / 2].to_owned()),
            ("app/service.toml", toml.replace("* /**", "FETCH nowhere")),
            ("app/service.toml", format!("hosts = [\"web\"]\n{toml}")),
            ("groups.toml", "[group.x]\nmembrs = []\n".to_owned()),
            ("global.cedar", "permit (principal, action == Action::\"open\", resource);".to_owned()),
            ("../keys/ca.crt", String::new()),
            ("../keys/server.crt", door.ca_pem.clone()),
            ("../keys/server.key", "no key".to_owned()),
        ];
        for (file, text) in bad {
            let path = door.dir.join("policies").join(file);
            let before = std::fs::read(&path).ok();
            std::fs::write(&path, &text).unwrap();
            assert!(door.running().reload().is_err(), "{file} was taken: {text:?}");
            for client in &mut clients {
                assert_eq!(client.get("/x").await.status, 200, "{file}");
                assert_eq!(client.get("/admin/x").await.status, 403, "{file}");
            }
            match before {
                Some(bytes) => std::fs::write(&path, bytes).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
        }
        door.write("app/access.cedar", &POLICY.replace("Group::\"engineering\"", "Group::\"auditors\""));
        door.running().reload().unwrap();
        for client in &mut clients {
            assert_eq!(client.get("/x").await.status, 403);
        }
        door.write("app/access.cedar", POLICY);
        door.running().reload().unwrap();
        for client in &mut clients {
            assert_eq!(client.get("/x").await.status, 200);
        }
    });
}

#[test]
fn a_reload_says_which_changed_keys_wait_for_the_next_start() {
    with_door(Plan::default(), async |door| {
        let none: Vec<String> = Vec::new();
        assert_eq!(door.running().reload().unwrap(), none, "nothing was changed");
        let file = door.dir.join("doorward.toml");
        let before = std::fs::read_to_string(&file).unwrap();
        let secret = door.dir.join("keys/dev.secret");
        let known = std::fs::read_to_string(&secret).unwrap();
        let lifetime = |text: &str| {
            let with = "[session]\nlifetime = \"10m\"\n";
            match text.contains("[session]\n") {
                true => text.replacen("[session]\n", with, 1),
                false => format!("{text}\n{with}"),
            }
        };
        std::fs::write(&file, lifetime(&before)).unwrap();
        std::fs::write(&secret, "another secret").unwrap();
        let waiting = door.running().reload().unwrap();
        assert!(waiting.iter().any(|key| key == "session.lifetime"), "{waiting:?}");
        assert!(waiting.iter().any(|key| key == "identity.provider.dev"), "{waiting:?}");
        assert!(!waiting.iter().any(|key| key.contains("server.")), "{waiting:?}");
        // It goes on record, and says nothing of what the keys hold.
        let filter = EventFilter { kind: Some(EventType::PolicyLoaded), ..EventFilter::default() };
        let mut told = Vec::new();
        for _ in 0..60 {
            let events = door.running().desk.store.event_list(&filter, 100).await.unwrap();
            told = events.iter().filter_map(|event| event.body["data"].get("at_next_start").cloned()).collect();
            if !told.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Whoever watches the files may have read them, too.
        assert!(!told.is_empty() && told.iter().all(|keys| *keys == serde_json::json!(waiting)), "{told:?}");
        std::fs::write(&file, before).unwrap();
        std::fs::write(&secret, known).unwrap();
        assert_eq!(door.running().reload().unwrap(), none, "all is again as at the start");
    });
}

#[test]
fn a_reload_leaves_no_connection_to_an_upstream_behind() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let mut client = door.client("app", Some(&alice), Speaks::Http1).await;
        for round in 0..5 {
            assert_eq!(client.get("/x").await.status, 200);
            let url = format!("\"http://{}\"", door.raw.address);
            let tables = format!("[limits]\nconnections_per_upstream = {}", 100 + round);
            door.write("app/service.toml", &service_toml(&url, "", &tables));
            door.running().reload().unwrap();
        }
        assert_eq!(client.get("/x").await.status, 200);
        let open = || door.raw.open.load(std::sync::atomic::Ordering::SeqCst);
        for _ in 0..200 {
            if open() <= 1 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("{} connections are open after five reloads, of which one is in use", open());
    });
}

#[test]
fn a_reload_leaves_the_connections_of_a_service_whose_upstreams_are_reached_as_before_and_of_no_other() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let mut client = door.client("app", Some(&alice), Speaks::Http1).await;
        let mut connection = async || {
            assert_eq!(client.get("/x").await.status, 200);
            door.raw.last().connection
        };
        let first = connection().await;
        let url = format!("\"http://{}\"", door.raw.address);
        for round in 0..3 {
            door.write("app/access.cedar", &format!("// {round}\n{POLICY}"));
            door.write("app/service.toml", &service_toml(&url, &format!("# {round}"), ""));
            door.write("rpc/service.toml", &service_toml(&url, "", ""));
            door.running().reload().unwrap();
            assert_eq!(connection().await, first, "a reload cost a connection that nothing was changed of");
        }
        door.write("app/service.toml", &service_toml(&url, "", "[timeouts]\nconnect = \"3s\""));
        door.running().reload().unwrap();
        assert_ne!(connection().await, first);
        // Of a service that is removed nothing is kept, long before its connections would be too old.
        std::fs::remove_dir_all(door.dir.join("policies/app")).unwrap();
        door.running().reload().unwrap();
        let removed = Instant::now();
        while door.raw.open.load(std::sync::atomic::Ordering::SeqCst) > 0 {
            assert!(removed.elapsed() < Duration::from_secs(15), "a connection is kept");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}

#[test]
fn a_request_that_came_before_a_reload_takes_no_pool_from_those_that_came_after_it() {
    with_door(Plan::default(), async |door| {
        let shared = &door.running().shared;
        let entry = || Arc::clone(shared.snapshot.load().service_at(&host("app")).unwrap());
        let reload = |connections: u32| {
            let tables = format!("[limits]\nconnections_per_upstream = {connections}");
            door.write("app/service.toml", &service_toml(&format!("\"http://{}\"", door.raw.address), "", &tables));
            door.running().reload().unwrap();
            entry()
        };
        let worker = Worker::new(Arc::clone(shared));
        let (first, second) = (entry(), reload(10));
        // A request of the first is under way when one of the second comes.
        let under_way = worker.pool(&first);
        let later = worker.pool(&second);
        assert!(!Rc::ptr_eq(&under_way, &later));
        assert!(Rc::ptr_eq(&under_way, &worker.pool(&first)), "those of one snapshot share a pool");
        assert!(Rc::ptr_eq(&later, &worker.pool(&second)), "an earlier snapshot took the place of a later one");
        drop(under_way);
        // What is as it was in the first is another one's all the same: connections of the first are gone.
        let third = reload(1024);
        let latest = worker.pool(&third);
        let strays = [worker.pool(&second), worker.pool(&first)];
        assert!(strays.iter().all(|stray| !Rc::ptr_eq(stray, &latest)));
        assert!(Rc::ptr_eq(&strays[1], &worker.pool(&first)) && Rc::ptr_eq(&strays[0], &later));
        assert!(Rc::ptr_eq(&latest, &worker.pool(&third)));
        let gone = Rc::downgrade(&strays[1]);
        drop(strays);
        assert_eq!(gone.strong_count(), 0, "nobody keeps a pool of the past");
    });
}

#[test]
fn a27_clients_of_an_authority_that_was_removed_are_refused_on_open_connections_and_new_ones() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let mut clients = Vec::new();
        for speaks in BOTH {
            clients.push(("/x", door.client("app", Some(&alice), speaks).await));
            clients.push(("/x", door.client("web", Some(&alice), speaks).await));
            clients.push(("/api/v1/whoami", door.client("", Some(&alice), speaks).await));
        }
        for (path, client) in &mut clients {
            assert_eq!(client.get(path).await.status, 200, "{path}");
        }
        let before = door.raw.count();
        let made = Authority::generate("Another", door.clock.now(), Ttl::hours(24), &SystemEntropy).unwrap();
        std::fs::write(door.dir.join("keys/ca.crt"), &made.certificate.pem).unwrap();
        std::fs::write(door.dir.join("keys/ca.key"), &made.key_pem).unwrap();
        door.running().reload().unwrap();
        for (path, client) in &mut clients {
            let got = client.get(path).await;
            assert_eq!((got.status.as_u16(), got.reason().as_str()), (401, "bad_credential"), "{path}");
        }
        for service in ["app", "web", ""] {
            for speaks in BOTH {
                // In TLS 1.3 the alert comes after the client's last flight: with the first answer at the latest.
                let refused = match door.connect(service, Some(&alice), speaks).await {
                    Err(_) => true,
                    Ok(mut stream) => {
                        use tokio::io::{AsyncReadExt, AsyncWriteExt};
                        let _ = stream.write_all(b"GET /x HTTP/1.1\r\n").await;
                        stream.read(&mut [0; 64]).await.is_err()
                    }
                };
                assert!(refused, "`{service}` {speaks:?} took a certificate of the old authority");
            }
        }
        assert_eq!(door.raw.count(), before);
    });
}

#[test]
fn the_end_waits_for_exchanges_under_way_and_for_nothing_else() {
    let plan = Plan { environment: vec![("DOORWARD__SERVER__DRAIN", "20s".to_owned())], ..Plan::default() };
    with_stopping_door(plan, async |mut door| {
        let alice = door.sign_in("alice").await;
        // Connections that lie idle on both sides hold nothing up.
        assert_eq!(door.get("app", Some(&alice), Speaks::Http1, "/x").await.status, 200);
        assert_eq!(door.get("rpc", Some(&alice), Speaks::Http2, "/x").await.status, 200);
        let mut idle = door.client("app", Some(&alice), Speaks::Http2).await;
        idle.get("/x").await;
        let mut clients = Vec::new();
        for speaks in BOTH {
            clients.push(door.client("app", Some(&alice), speaks).await);
        }
        let stopping = Instant::now();
        let mut asked = Vec::new();
        for client in &mut clients {
            let frames = futures_util::stream::unfold(0, |number| async move {
                tokio::time::sleep(Duration::from_millis(150)).await;
                (number < 6).then(|| (Ok(Frame::data(Bytes::from_static(b"piece"))), number + 1))
            });
            let request = client.request(Method::POST, "/slow").body(StreamBody::new(frames).boxed_unsync()).unwrap();
            asked.push(async move { read(client.send(request).await.unwrap()).await });
        }
        let running = door.running.take().unwrap();
        let stop = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            tokio::task::spawn_blocking(move || running.stop()).await.unwrap();
        };
        let (got, ()) = tokio::join!(futures_util::future::join_all(asked), stop);
        for got in got {
            assert_eq!((got.status.as_u16(), got.text()), (200, "piece".repeat(6)));
        }
        assert!(stopping.elapsed() < Duration::from_secs(6), "{:?}", stopping.elapsed());
        door
    });
}

#[test]
fn the_end_comes_although_streams_are_open() {
    with_stopping_door(Plan::default(), async |mut door| {
        let alice = door.sign_in("alice").await;
        let mut client = door.client("app", Some(&alice), Speaks::Http2).await;
        let request = client.request(Method::GET, "/sse").body(super::fixture::full("")).unwrap();
        let _response = client.send(request).await.unwrap();
        let upgrade = "GET /ws HTTP/1.1\r\nHost: app.doorward.localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let mut stream = door.connect("app", Some(&alice), Speaks::Http1).await.unwrap();
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        stream.write_all(upgrade.as_bytes()).await.unwrap();
        assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
        let running = door.running.take().unwrap();
        let stopping = Instant::now();
        tokio::task::spawn_blocking(move || running.stop()).await.unwrap();
        assert!(stopping.elapsed() < Duration::from_secs(5), "{:?}", stopping.elapsed());
        // Neither side is to blame for what the end itself cut.
        let store = Store::open(&format!("sqlite://{}", door.dir.join("doorward.db").display())).unwrap();
        let filter = EventFilter { kind: Some(EventType::ExchangeEnded), ..EventFilter::default() };
        let events = store.event_list(&filter, 100).await.unwrap();
        let reasons: Vec<_> = events.iter().filter_map(|event| event.text("/reason")).collect();
        assert_eq!(reasons, ["stopped", "stopped"]);
        store.close().await;
        door
    });
}
