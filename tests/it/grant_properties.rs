//! No sequence of operations, crashes and changes of policies revives a grant, lets access outlive
//! it, lets somebody approve what they asked for, or loses an approval: first the states alone, then
//! the engine with its database, compared step by step with what its books may say.
//!
//! `DOORWARD_TEST_CASES` asks for longer runs.

use doorward::model::{GrantEnd, GrantState, GrantStuck, RequestState, Timestamp, Ttl};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::access_steps::{Company, Op, op};

/// How many sequences a test tries.
fn cases(usual: u32) -> u32 {
    match std::env::var("DOORWARD_TEST_CASES") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("DOORWARD_TEST_CASES is no number: {text}")),
        Err(_) => usual,
    }
}

fn config(cases: u32) -> Config {
    Config { cases, failure_persistence: None, max_shrink_iters: 300, ..Config::default() }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Activate(i64),
    Extend(i64),
    End(u8),
    Time(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..100_000i64).prop_map(Step::Activate),
        (1..100_000i64).prop_map(Step::Extend),
        (0..3u8).prop_map(Step::End),
        (-50_000..100_000i64).prop_map(Step::Time),
        Just(Step::Extend(i64::MAX)),
    ]
}

fn ttl(millis: i64) -> Ttl {
    Timestamp::from_millis(millis).since(Timestamp::from_millis(0))
}

proptest! {
    #![proptest_config(config(2000))]

    #[test]
    fn a_grant_that_is_over_stays_over_and_lasts_what_it_was_given(steps in proptest::collection::vec(step(), 1..40)) {
        let mut now = Timestamp::from_millis(1_000_000);
        let mut state = GrantState::Scheduled;
        let (mut over, mut given) = (None, 0i64);
        for step in steps {
            let before = state;
            let result = match step {
                Step::Activate(length) => {
                    let next = state.activated(ttl(length), now);
                    given = if next.is_ok() { length } else { given };
                    next
                }
                Step::Extend(length) => {
                    let next = state.extended(ttl(length), now);
                    given = if next.is_ok() { given.saturating_add(length) } else { given };
                    next
                }
                Step::End(how) => {
                    state.ended([GrantEnd::Expired, GrantEnd::Revoked, GrantEnd::Dropped][usize::from(how)], now)
                }
                Step::Time(by) => {
                    now = Timestamp::from_millis(now.millis() + by);
                    // What the clock ended is written down as ended, as the sweep does.
                    if let at @ GrantState::Over { .. } = state.at(now) { state = at }
                    Ok(state)
                }
            };
            match result {
                Ok(next) => state = next,
                Err(why) => prop_assert_eq!(why == GrantStuck::Over, matches!(before.at(now), GrantState::Over { .. })),
            }
            if let Some(over) = over {
                prop_assert_eq!(state, over, "what is over is over for ever");
                prop_assert!(!state.is_active(now) && state.at(now) == state);
            }
            if matches!(state, GrantState::Over { .. }) { over = Some(state) }
            if let GrantState::Active { from, until } = state {
                prop_assert_eq!(until.millis(), from.millis().saturating_add(given));
                prop_assert!(!state.is_active(until), "the end itself is outside");
                prop_assert_eq!(state.at(until).at(now), state.at(until), "going back revives nothing");
                let later = until.plus(ttl(1));
                prop_assert_eq!(state.at(later), state.at(until), "it ended then, whenever it is looked at");
            }
        }
    }

    #[test]
    fn a_closed_request_is_closed_for_ever(ends in proptest::collection::vec(0..5usize, 1..10)) {
        let all = [RequestState::Pending, RequestState::Approved, RequestState::Denied, RequestState::Withdrawn, RequestState::TimedOut];
        let mut state = RequestState::Pending;
        for end in ends {
            let next = state.closed(all[end]);
            prop_assert_eq!(next.is_ok(), state == RequestState::Pending && end != 0);
            prop_assert_eq!(next.err().unwrap_or(state), state);
            state = next.unwrap_or(state);
        }
    }
}

fn run(cases: u32, steps: usize, back: bool, start: impl Fn() -> Option<String>) {
    let mut runner = TestRunner::new(config(cases));
    let strategy = proptest::collection::vec(op(back), 1..steps);
    let outcome = runner.run(&strategy, |ops: Vec<Op>| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let Some(mut company) = Company::found(start()).await else { return Ok(()) };
            for op in &ops {
                company.step(op).await;
            }
            company.close().await;
            Ok::<_, TestCaseError>(())
        })
    });
    if let Err(error) = outcome {
        panic!("{error}\nDOORWARD_TEST_CASES=N tries more of them");
    }
}

#[test]
fn no_sequence_revives_a_grant_or_lets_access_outlive_it_or_loses_an_approval() {
    run(cases(40), 60, false, || Some(String::new()));
}

#[test]
fn a_clock_that_goes_back_revives_nothing() {
    run(cases(20), 50, true, || Some(String::new()));
}

#[test]
fn no_sequence_does_so_on_postgresql_either() {
    if crate::postgres::server().is_some() {
        run(cases(64).div_ceil(8), 40, false, crate::postgres::fresh_database);
    }
}
