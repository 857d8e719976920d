//! What a seed means: which operation is cut, where, and how.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::http::Trouble;
use super::wire::{Fault, Strike, Traffic, Way};
use crate::support::dice::Dice;

/// The operations that carry or judge data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Op {
    Dump,
    Verify,
    Restore,
    Compare,
}

pub const OPS: [Op; 4] = [Op::Dump, Op::Verify, Op::Restore, Op::Compare];

/// The way that is spoiled, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Hit {
    /// Between the mover and the API server of the old cluster.
    Old(Strike),
    /// The same of the new cluster.
    New(Strike),
    /// Between the mover and the S3 server, below TLS.
    Bucket(Strike),
    /// What the S3 server says, without TLS.
    Answers(Trouble),
}

impl Hit {
    /// Whether the mover can learn of it only by waiting in vain.
    pub fn is_silent(self) -> bool {
        match self {
            Self::Old(strike) | Self::New(strike) | Self::Bucket(strike) => strike.fault.is_silent(),
            Self::Answers(_) => false,
        }
    }

    /// Whether the mover speaks to the S3 server without TLS.
    pub fn is_plain(self) -> bool {
        matches!(self, Self::Answers(_))
    }
}

/// One cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Case {
    pub seed: u64,
    pub number: u64,
    pub op: Op,
    pub hit: Hit,
    /// Compare only: one row of the target is another one, so that "equal" is a lie.
    pub differ: bool,
    /// What follows a failure: the clean-up of an undo, or at once the next attempt.
    pub undo: bool,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", serde_json::to_string(self).unwrap())
    }
}

/// What passes when nothing is spoiled: the places that a seed may pick.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub old: Vec<Traffic>,
    pub new: Vec<Traffic>,
    pub bucket: Vec<Traffic>,
    pub answers: Vec<u64>,
}

pub type Profile = BTreeMap<Op, Seen>;

enum Place {
    Old,
    New,
    Bucket,
    Answers,
}

/// The case of this number. Numbers go round the operations.
pub fn choose(profile: &Profile, seed: u64, number: u64) -> Case {
    let mut dice = Dice::new(seed.wrapping_mul(1_000_003).wrapping_add(number));
    // The first numbers of neighbouring seeds are too much alike.
    dice.next();
    let op = OPS[usize::try_from(number % 4).unwrap()];
    let seen = &profile[&op];
    let silent = dice.below(8) == 0;
    use Place::{Answers, Bucket, New, Old};
    let places: &[Place] = match (op, silent) {
        (Op::Dump, false) => &[Old, Old, Old, Old, Old, New, Bucket, Bucket, Answers, Answers, Answers],
        (Op::Dump, true) => &[Old, Old, Bucket],
        (Op::Verify, false) => &[New, Bucket, Bucket, Bucket, Answers, Answers, Answers],
        (Op::Verify, true) => &[Bucket],
        (Op::Restore, false) => &[New, New, New, New, New, Bucket, Bucket, Answers, Answers],
        (Op::Restore, true) => &[New, New, New, Bucket],
        (Op::Compare, false) => &[Old, Old, Old, New, New, New, Bucket, Answers],
        (Op::Compare, true) => &[Old, New],
    };
    let hit = match &places[dice.below(places.len())] {
        Old => Hit::Old(strike(&mut dice, &seen.old, silent, false)),
        New => Hit::New(strike(&mut dice, &seen.new, silent, false)),
        Bucket => Hit::Bucket(strike(&mut dice, &seen.bucket, silent, true)),
        Answers => Hit::Answers(trouble(&mut dice, op, &seen.answers)),
    };
    Case { seed, number, op, hit, differ: op == Op::Compare && dice.below(2) == 0, undo: dice.below(2) == 0 }
}

/// Cuts that this product once did not stand, in the words of what was found. They are played whatever the seed.
pub fn known(profile: &Profile) -> Vec<Case> {
    let middle = |connections: &[Traffic], way: Way, fault: Fault| {
        let connection = (0..connections.len()).max_by_key(|&n| connections[n].up + connections[n].down).unwrap();
        let traffic = connections[connection];
        let at = if way == Way::Up { traffic.up } else { traffic.down } / 2;
        Strike { connection, way, at, fault }
    };
    let (dump, restore, compare) = (&profile[&Op::Dump], &profile[&Op::Restore], &profile[&Op::Compare]);
    let found = [
        // A restore whose archive went into a hole waited for ever: its tool has a session, and pings stand behind its input.
        (Op::Restore, Hit::New(middle(&restore.new, Way::Up, Fault::Blackhole)), true),
        (Op::Restore, Hit::New(middle(&restore.new, Way::Up, Fault::OneWayHole)), false),
        // A dump whose bytes went into a hole took more than two minutes to say so.
        (Op::Dump, Hit::Old(middle(&dump.old, Way::Down, Fault::Blackhole)), true),
        // A statement that went into a hole was waited for half a day, and the psql behind it could not be ended by anybody.
        (Op::Compare, Hit::Old(middle(&compare.old, Way::Up, Fault::Blackhole)), true),
        (Op::Compare, Hit::New(middle(&compare.new, Way::Up, Fault::Stall)), false),
        // An upload whose beginning was not heard of stayed beside the one that was begun in its place, after success.
        (Op::Dump, Hit::Answers(Trouble::LostBegin), false),
        // A manifest that was changed on its way to verify was sealed as it came: JSON still, but another manifest.
        (Op::Verify, Hit::Answers(Trouble::Changed(0, 690)), true),
    ];
    let case = |(number, (op, hit, undo)): (usize, (Op, Hit, bool))| Case {
        seed: 0,
        number: 1_000_000 + 4 * number as u64,
        op,
        hit,
        differ: false,
        undo,
    };
    found.into_iter().enumerate().map(case).collect()
}

/// A byte of a connection: more often than not of the one that carries most.
fn strike(dice: &mut Dice, connections: &[Traffic], silent: bool, certificates: bool) -> Strike {
    let largest = (0..connections.len()).max_by_key(|&n| connections[n].up + connections[n].down).unwrap();
    let connection = if dice.below(5) < 3 { largest } else { dice.below(connections.len()) };
    let traffic = connections[connection];
    let heavy = if traffic.up > traffic.down { Way::Up } else { Way::Down };
    let way = if dice.below(4) > 0 { heavy } else { dice.pick(&[Way::Up, Way::Down]) };
    let bytes = match way {
        Way::Up => traffic.up,
        Way::Down => traffic.down,
    };
    let fault = match (silent, certificates) {
        (true, _) => dice.pick(&[Fault::Blackhole, Fault::Blackhole, Fault::OneWayHole, Fault::Stall]),
        (false, true) => dice.pick(&[Fault::Reset, Fault::HalfClose, Fault::Slow, Fault::Certificate]),
        (false, false) => dice.pick(&[Fault::Reset, Fault::Reset, Fault::HalfClose, Fault::HalfClose, Fault::Slow]),
    };
    Strike { connection, way, at: dice.next() % bytes.max(1), fault }
}

fn trouble(dice: &mut Dice, op: Op, answers: &[u64]) -> Trouble {
    let largest = (0..answers.len()).max_by_key(|&n| answers[n]).unwrap();
    let request = if dice.below(2) == 0 { largest } else { dice.below(answers.len()) };
    let place = dice.next() % 1000;
    match dice.below(if op == Op::Dump { 6 } else { 5 }) {
        0 | 1 => Trouble::Busy(10 + dice.next() % 51, dice.next()),
        2 => Trouble::WrongLength(request, dice.pick(&[-1, 1, -1000, 1000])),
        3 => Trouble::Truncated(request, place),
        4 => Trouble::Changed(request, place),
        _ => Trouble::ErrorIn200(dice.next() % 2, dice.pick(&[1, 9])),
    }
}
