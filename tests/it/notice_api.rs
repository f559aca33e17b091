//! Notices through the API: who sees them, page by page, and having one that was given up tried again;
//! on both engines.

use doorward::audit::{Event, EventType, Outcome, PersonalField};
use doorward::model::EventId;
use doorward::store::{EventFilter, NoticeState};
use serde_json::json;

use crate::api_house::{Answer, House};
use crate::support::databases;

/// Three events on two channels; those of `operations` are given up.
async fn told(house: &House) -> Vec<EventId> {
    let (store, now) = (&house.desk.store, house.now());
    for channel in ["mail", "operations"] {
        store.notice_channel_open(channel, now).await.unwrap();
    }
    let mut events = Vec::new();
    for number in 1..=3u8 {
        let id = EventId::from_bytes([number; 16]);
        let mut tx = store.begin().await.unwrap();
        tx.event_append(&Event::new(id, now, EventType::LockSet, Outcome::Success)).await.unwrap();
        tx.commit().await.unwrap();
        events.push(id);
    }
    for log in store.log_list().await.unwrap() {
        store.number_pending(log.log, now).await.unwrap();
    }
    for channel in ["mail", "operations"] {
        while store.notice_collect(channel, |kind| kind == "lock.set", now).await.unwrap().is_some() {}
        for notice in store.notice_list_due(channel, now, 10).await.unwrap() {
            if channel == "mail" {
                store.notice_delivered(&notice, now).await.unwrap();
            } else {
                let id = EventId::fresh(now, &*house.desk.entropy);
                store.notice_bury(&notice, "the receiver answered 500", id, now).await.unwrap();
            }
        }
    }
    events
}

fn names(answer: &Answer) -> Vec<(String, String)> {
    let items = answer.body["items"].as_array().unwrap();
    let name = |item: &serde_json::Value, key: &str| item[key].as_str().unwrap().to_owned();
    items.iter().map(|item| (name(item, "id"), name(item, "channel"))).collect()
}

#[tokio::test]
async fn notices_are_listed_page_by_page_and_none_is_lost_between_two_channels_of_one_event() {
    for url in databases() {
        let house = House::new(&url).await;
        let (carol, _, _) = house.command_line("carol").await;
        let (alice, _, _) = house.command_line("alice").await;
        told(&house).await;
        let whole = house.get(&carol, "/api/v1/notices?limit=200").await;
        let whole = names(&whole);
        assert_eq!(whole.len(), 6);
        let (mut found, mut path) = (Vec::new(), "/api/v1/notices?limit=1".to_owned());
        for _ in 0..10 {
            let page = house.get(&carol, &path).await;
            found.extend(names(&page));
            match page.body["next"].as_str() {
                Some(next) => path = format!("/api/v1/notices?limit=1&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(found, whole);
        let dead = house.get(&carol, "/api/v1/notices?state=dead").await;
        assert_eq!(names(&dead).len(), 3);
        assert_eq!(dead.text("/items/0/error"), "the receiver answered 500");
        assert_eq!(dead.text("/items/0/state"), "dead");
        assert_eq!(names(&house.get(&alice, "/api/v1/notices").await), []);
        for wrong in ["state=gone", "cursor=evt_x", "cursor=1", "limit=0", "limit=201"] {
            assert_eq!(house.get(&carol, &format!("/api/v1/notices?{wrong}")).await.status, 400, "{wrong}");
        }
    }
}

#[tokio::test]
async fn what_was_given_up_is_tried_again_on_the_word_of_who_may_and_that_is_on_record() {
    for url in databases() {
        let house = House::new(&url).await;
        let (carol, _, _) = house.command_line("carol").await;
        let (alice, _, _) = house.command_line("alice").await;
        let events = told(&house).await;
        let path = format!("/api/v1/notices/{}/retry", events[0]);
        assert_eq!(house.json(&alice, &path, &json!({})).await.status, 404);
        assert_eq!(house.json(&carol, &path, &json!({ "channel": "nobody" })).await.status, 404);
        let delivered = house.json(&carol, &path, &json!({ "channel": "mail" })).await;
        assert_eq!((delivered.status.as_u16(), delivered.text("/reason")), (409, "not_dead"), "{delivered:?}");
        let again = house.json(&carol, &path, &json!({})).await;
        assert_eq!(again.status, 200, "{again:?}");
        assert_eq!(names(&again), [(events[0].to_string(), "operations".to_owned())]);
        assert_eq!((again.text("/items/0/state"), again.body["items"][0]["attempts"].as_i64()), ("waiting", Some(0)));
        let store = &house.desk.store;
        assert_eq!(store.notice_list_due("operations", house.now(), 10).await.unwrap().len(), 1);
        assert_eq!(store.notice_count("operations", NoticeState::Dead).await.unwrap(), 2);
        assert_eq!(house.json(&carol, &path, &json!({})).await.text("/reason"), "not_dead", "once");
        let filter = EventFilter { kind: Some(EventType::NoticeRetried), ..EventFilter::default() };
        let recorded = store.event_list(&filter, 10).await.unwrap();
        assert_eq!(recorded.len(), 1);
        assert_eq!(recorded[0].personal(PersonalField::Email), Some("carol@example.com"));
    }
}
