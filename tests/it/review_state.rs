//! What becomes of a review and of a rule of it: the state machines by themselves.

use doorward::model::{Choice, Decision, Person, Principal, ReviewOver, ReviewState, RuleKind, RuleState, Timestamp};

fn at(second: i64) -> Timestamp {
    Timestamp::from_seconds(second)
}

fn decision(second: i64) -> Decision {
    let principal = Principal::user("dev", "carol").unwrap();
    let by = Person { principal, email: None, email_verified: false, name: None };
    Decision { by, reason: "because".to_owned(), at: at(second) }
}

#[test]
fn a_review_that_is_closed_stays_so() {
    let closed = ReviewState::Open.closed(at(5)).unwrap();
    assert_eq!((closed, closed.name()), (ReviewState::Closed { at: at(5) }, "closed"));
    assert_eq!(closed.closed(at(9)), Err(ReviewOver { at: at(5) }));
}

#[test]
fn a_rule_is_decided_anew_until_it_is_gone() {
    use RuleState::{Kept, Removed, ToRemove, Undecided};
    let gone = Removed { decision: decision(1), at: at(2) };
    for (state, choice, next) in [
        (Undecided, Choice::Keep, Ok(Kept(decision(9)))),
        (Undecided, Choice::Remove, Ok(ToRemove(decision(9)))),
        (Kept(decision(1)), Choice::Remove, Ok(ToRemove(decision(9)))),
        (Kept(decision(1)), Choice::Keep, Ok(Kept(decision(9)))),
        (ToRemove(decision(1)), Choice::Keep, Ok(Kept(decision(9)))),
        (gone.clone(), Choice::Keep, Err(gone.clone())),
        (gone.clone(), Choice::Remove, Err(gone.clone())),
    ] {
        assert_eq!(state.clone().decided(choice, decision(9)), next, "{state:?} {choice:?}");
    }
}

#[test]
fn only_what_is_to_go_goes_and_only_what_went_comes_back() {
    use RuleState::{Kept, Removed, ToRemove, Undecided};
    let gone = Removed { decision: decision(1), at: at(2) };
    for (state, is_there, next) in [
        (Undecided, false, None),
        (Undecided, true, None),
        (Kept(decision(1)), false, None),
        (Kept(decision(1)), true, None),
        (ToRemove(decision(1)), true, None),
        (ToRemove(decision(1)), false, Some(gone.clone())),
        (gone.clone(), false, None),
        (gone.clone(), true, Some(ToRemove(decision(1)))),
    ] {
        assert_eq!(state.seen(is_there, at(2)), next, "{state:?} {is_there}");
    }
}

#[test]
fn names_are_read_as_they_are_written() {
    for kind in [RuleKind::Entitlement, RuleKind::Permit] {
        assert_eq!(RuleKind::parse(kind.name()), Some(kind));
    }
    for choice in [Choice::Keep, Choice::Remove] {
        assert_eq!(Choice::parse(choice.name()), Some(choice));
    }
    assert_eq!((RuleKind::parse("x"), Choice::parse("")), (None, None));
}
