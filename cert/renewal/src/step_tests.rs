//! Every state of the disks, and what becomes of it.

use super::*;
use crate::certificate::tests::{certificate, ec_key};
use crate::policy::Validity;
use openssl::nid::Nid;

const NOW: i64 = 1_000_000;

/// The certificates `old` and `new`, each for a key of its own, one for the same key as `old`, and a key without any.
struct Cast {
    old: Certificate,
    new: Certificate,
    same_key: Certificate,
    other: KeyPrint,
}

fn cast() -> Cast {
    let valid = Validity { not_before: 0, not_after: 2 * NOW };
    let key = || ec_key(Nid::X9_62_PRIME256V1);
    let parse = |key, number| Certificate::parse(certificate(key, number, valid)).unwrap();
    let (one, two) = (key(), key());
    Cast {
        old: parse(&one, 1),
        new: parse(&two, 2),
        same_key: parse(&one, 3),
        other: KeyPrint::of(&key()).unwrap(),
    }
}

/// What a step does to what is there, if it succeeds; a request brings `new` or `same_key`.
fn apply(facts: &Facts, order: &Order, step: Step, cast: &Cast) -> Facts {
    let mut after = facts.clone();
    let stage = |stage| Some(Pending { stage, ..facts.pending.clone().unwrap() });
    match step {
        Step::Rest | Step::Stuck(_) => {}
        Step::Begin => {
            let replaces = facts.certificate.as_ref().unwrap().digest();
            after.pending = Some(Pending {
                rotate_key: order.rotate_key,
                replaces,
                is_forced: false,
                stage: Stage::Preparing,
            });
        }
        Step::MakeKey => after.temporary = Some(cast.new.key()),
        Step::Request(slot) => {
            let key = if slot == Slot::Current { facts.current } else { facts.temporary };
            let issued = [&cast.new, &cast.same_key].into_iter().find(|it| Some(it.key()) == key);
            // A key that nobody knows here: as if the request had failed, with a new key for the next one.
            match issued {
                Some(issued) => after.pending = stage(Stage::Issued(issued.clone())),
                None => after.temporary = Some(cast.new.key()),
            }
        }
        Step::Ask(_) => {
            let Some(Pending { stage: Stage::Issued(new), .. }) = &facts.pending else { panic!("{facts:?}") };
            after.pending = stage(Stage::Accepted(new.clone()));
        }
        Step::MoveKey => after.current = after.temporary.take(),
        Step::Import => {
            let Some(Pending { stage: Stage::Accepted(new), .. }) = &facts.pending else {
                panic!("{facts:?}")
            };
            after.certificate = Some(new.clone());
        }
        Step::Finish | Step::GiveUp(_) => after.pending = None,
        Step::DeleteKey => after.temporary = None,
    }
    after
}

#[test]
fn from_every_state_there_is_an_end_and_the_good_pair_is_never_lost() {
    let cast = cast();
    let Cast { old, new, same_key, other } = &cast;
    let stages = [
        None,
        Some(Stage::Preparing),
        Some(Stage::Issued(new.clone())),
        Some(Stage::Issued(same_key.clone())),
        Some(Stage::Accepted(new.clone())),
        Some(Stage::Accepted(same_key.clone())),
    ];
    let keys = [None, Some(old.key()), Some(new.key()), Some(*other)];
    let mut states = 0;
    for stage in &stages {
        for (rotate_key, is_about) in [(true, true), (false, true), (true, false), (false, false)] {
            for certificate in [None, Some(old), Some(new), Some(same_key)] {
                for (current, temporary) in
                    keys.iter().flat_map(|one| keys.iter().map(move |two| (*one, *two)))
                {
                    let replaces = if is_about { old.digest() } else { same_key.digest() };
                    let pending =
                        stage.clone().map(|stage| Pending { rotate_key, replaces, is_forced: false, stage });
                    let facts = Facts {
                        pending,
                        certificate: certificate.cloned(),
                        current,
                        temporary,
                        is_hidden: false,
                    };
                    for (is_due, rotate_key) in [(true, true), (true, false), (false, true), (false, false)] {
                        follow(&facts, Order { is_due, rotate_key, can_move: true, now: NOW }, &cast);
                        states += 1;
                    }
                }
            }
        }
    }
    assert_eq!(states, 6 * 4 * 4 * 16 * 4);
}

/// Does step after step; a crash between two steps changes nothing, for each looks anew.
fn follow(start: &Facts, mut order: Order, cast: &Cast) {
    let had_pair = good_pair(start, NOW).is_some();
    let mut facts = start.clone();
    for _ in 0..20 {
        let step = next(&facts, &order);
        if had_pair {
            assert!(good_pair(&facts, NOW).is_some(), "{start:?} came to {facts:?}");
        }
        match step {
            Step::Rest => {
                assert!(
                    facts.pending.is_none() && good_pair(&facts, NOW).unwrap().1 == Slot::Current,
                    "{facts:?}"
                );
                return;
            }
            Step::Stuck(_) => {
                assert!(facts.pending.is_none() && !had_pair, "{start:?} got stuck at {facts:?}");
                return;
            }
            Step::Finish => order.is_due = false,
            _ => {}
        }
        facts = apply(&facts, &order, step, cast);
    }
    panic!("no end from {start:?}");
}

fn facts(
    pending: Option<(bool, Stage)>,
    certificate: &Certificate,
    current: Option<KeyPrint>,
    temporary: Option<KeyPrint>,
    cast: &Cast,
) -> Facts {
    let pending = pending.map(|(rotate_key, stage)| Pending {
        rotate_key,
        replaces: cast.old.digest(),
        is_forced: false,
        stage,
    });
    Facts { pending, certificate: Some(certificate.clone()), current, temporary, is_hidden: false }
}

#[test]
fn the_table_of_the_story() {
    let cast = cast();
    let Cast { old, new, same_key, other } = &cast;
    let (issued, accepted) = (Stage::Issued(new.clone()), Stage::Accepted(new.clone()));
    let (old_key, new_key, other) = (Some(old.key()), Some(new.key()), Some(*other));
    let order = Order { is_due: true, rotate_key: true, can_move: true, now: NOW };
    let check = |pending, certificate, current, temporary, step, good: Option<(&Certificate, Slot)>| {
        let facts = facts(pending, certificate, current, temporary, &cast);
        assert_eq!(next(&facts, &order), step, "{facts:?}");
        let found = good_pair(&facts, NOW).map(|(it, slot)| (it.digest(), slot));
        assert_eq!(found, good.map(|(it, slot)| (it.digest(), slot)), "{facts:?}");
    };
    use Slot::{Current, Temporary};
    let in_place = Some((old, Current));
    check(None, old, old_key, None, Step::Begin, in_place);
    check(None, old, old_key, other, Step::DeleteKey, in_place);
    check(Some((true, Stage::Preparing)), old, old_key, None, Step::MakeKey, in_place);
    check(Some((true, Stage::Preparing)), old, old_key, new_key, Step::Request(Temporary), in_place);
    check(Some((true, issued.clone())), old, old_key, new_key, Step::Ask(Temporary), in_place);
    let good = Some((new, Temporary));
    check(Some((true, accepted.clone())), old, old_key, new_key, Step::MoveKey, good);
    // A store without atomic moves may have lost the old key and not yet renamed the new one.
    check(Some((true, accepted.clone())), old, None, new_key, Step::MoveKey, good);
    let good = Some((new, Current));
    check(Some((true, accepted.clone())), old, new_key, None, Step::Import, good);
    check(Some((true, accepted.clone())), new, new_key, None, Step::Finish, good);
    check(Some((true, accepted.clone())), new, new_key, new_key, Step::Finish, good);
    // The new key is gone.
    check(Some((true, issued.clone())), old, old_key, None, Step::GiveUp(Why::KeyLost), in_place);
    check(Some((true, issued.clone())), old, old_key, other, Step::DeleteKey, in_place);
    check(Some((true, accepted.clone())), old, old_key, None, Step::GiveUp(Why::KeyLost), in_place);
    // Somebody else put another certificate in place.
    let theirs = Some((same_key, Current));
    check(Some((true, issued.clone())), same_key, old_key, new_key, Step::DeleteKey, theirs);
    check(Some((true, issued)), same_key, old_key, None, Step::GiveUp(Why::Replaced), theirs);
    check(
        Some((true, accepted.clone())),
        same_key,
        old_key,
        new_key,
        Step::DeleteKey,
        Some((new, Temporary)),
    );
    check(Some((true, accepted.clone())), same_key, old_key, None, Step::GiveUp(Why::Replaced), theirs);
    // Theirs has no key here.
    check(Some((true, accepted.clone())), same_key, new_key, None, Step::Import, Some((new, Current)));
    // Without rotation.
    let same = |stage: fn(Certificate) -> Stage| Some((false, stage(same_key.clone())));
    check(same(Stage::Issued), old, old_key, None, Step::Ask(Current), in_place);
    check(same(Stage::Accepted), old, old_key, None, Step::Import, Some((same_key, Current)));
    check(same(Stage::Accepted), same_key, old_key, None, Step::Finish, Some((same_key, Current)));
    // The configuration has changed meanwhile.
    check(Some((false, Stage::Preparing)), old, old_key, None, Step::GiveUp(Why::NotWanted), in_place);
    // What upstream leaves when it is interrupted: the certificate was written, the key not yet moved.
    check(None, new, old_key, new_key, Step::MoveKey, Some((new, Temporary)));
    check(None, new, None, None, Step::Stuck(Stuck::NoKey), None);
    check(None, new, old_key, None, Step::Stuck(Stuck::OtherKey), None);
    let nothing = Facts::default();
    assert_eq!(next(&nothing, &order), Step::Stuck(Stuck::NoCertificate));
}

#[test]
fn what_has_waited_for_too_long_is_given_up() {
    let cast = cast();
    let stage = Some((false, Stage::Issued(cast.same_key.clone())));
    let facts = facts(stage, &cast.old, Some(cast.old.key()), None, &cast);
    let order = |now| Order { is_due: true, rotate_key: false, can_move: true, now };
    assert_eq!(next(&facts, &order(2 * NOW - 1)), Step::Ask(Slot::Current));
    assert_eq!(next(&facts, &order(2 * NOW)), Step::GiveUp(Why::Expired));
    // The same of one that could not be put in place.
    let stage = Some((false, Stage::Accepted(cast.same_key.clone())));
    let facts = self::facts(stage, &cast.old, Some(cast.old.key()), None, &cast);
    assert_eq!(next(&facts, &order(2 * NOW - 1)), Step::Import);
    assert_eq!(next(&facts, &order(2 * NOW)), Step::GiveUp(Why::Expired));
}

#[test]
fn what_is_accepted_goes_back_only_to_a_pair_that_is_good() {
    let cast = cast();
    let (old_key, new_key) = (Some(cast.old.key()), Some(cast.new.key()));
    let check = |current, can_move, now, step, slot| {
        let facts =
            facts(Some((true, Stage::Accepted(cast.new.clone()))), &cast.old, current, new_key, &cast);
        let order = Order { is_due: true, rotate_key: true, can_move, now };
        assert_eq!(next(&facts, &order), step, "{current:?} {can_move} {now}");
        assert_eq!(good_pair(&facts, now).map(|(_, slot)| slot), slot);
    };
    use Slot::{Current, Temporary};
    check(old_key, true, NOW, Step::MoveKey, Some(Temporary));
    // keyd does not move it: back, and what is accepted is used until then.
    check(old_key, false, NOW, Step::DeleteKey, Some(Temporary));
    // There is nothing to go back to.
    check(None, false, NOW, Step::MoveKey, Some(Temporary));
    check(old_key, false, 2 * NOW, Step::MoveKey, Some(Temporary));
    check(new_key, false, NOW, Step::Import, Some(Current));
    // With the key in place it can be renewed, and the old one cannot.
    check(new_key, false, 2 * NOW, Step::Import, Some(Current));
    // The new certificate has expired, the old one has not.
    let long = Validity { not_before: 0, not_after: 4 * NOW };
    let key = ec_key(Nid::X9_62_PRIME256V1);
    let old = Certificate::parse(certificate(&key, 7, long)).unwrap();
    let pending = Pending {
        rotate_key: true,
        replaces: old.digest(),
        is_forced: false,
        stage: Stage::Accepted(cast.new.clone()),
    };
    let (current, certificate) = (Some(old.key()), Some(old));
    let facts = Facts { pending: Some(pending), certificate, current, temporary: new_key, is_hidden: false };
    let order = Order { is_due: true, rotate_key: true, can_move: true, now: 3 * NOW };
    assert_eq!(next(&facts, &order), Step::DeleteKey);
    assert_eq!(good_pair(&facts, 3 * NOW).unwrap().1, Current);
    assert_eq!(next(&Facts { temporary: None, ..facts }, &order), Step::GiveUp(Why::KeyLost));
}

#[test]
fn what_is_not_due_any_more_is_given_up_before_anybody_was_asked() {
    let cast = cast();
    let order = Order { is_due: false, rotate_key: true, can_move: true, now: NOW };
    let with =
        |stage, temporary| facts(Some((true, stage)), &cast.old, Some(cast.old.key()), temporary, &cast);
    let new = Some(cast.new.key());
    assert_eq!(next(&with(Stage::Preparing, new), &order), Step::DeleteKey);
    assert_eq!(next(&with(Stage::Preparing, None), &order), Step::GiveUp(Why::NotWanted));
    assert_eq!(next(&with(Stage::Issued(cast.new.clone()), new), &order), Step::Ask(Slot::Temporary));
}
