//! Lives at random: a running clock, and as many disturbances as the dice throw. A life that breaks a promise prints its seed.

use std::panic::catch_unwind;

use super::call::Cut;
use super::events::{Event, Free, Trouble, Wish};
use super::machine::{Machine, Point};
use super::world::Before;
use crate::api::Outcome;

/// Events after which everybody calms down.
const LONG: usize = 500;

/// xorshift64*: enough to choose between events, and the same on every machine.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let n = u64::try_from(n.max(1)).unwrap();
        usize::try_from((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % n).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn one_of<T: Copy>(&mut self, things: &[T]) -> T {
        things[self.below(things.len())]
    }
}

/// How a life ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Life {
    /// Things that happened in it.
    pub events: usize,
    /// Its outcome; absent for one that is held, planned, or gone without one.
    pub outcome: Option<Outcome>,
    /// Whether a person is asked.
    pub held: bool,
    /// Runs that were begun.
    pub runs: i64,
}

/// One life. `tell`: prints each event.
pub fn live(seed: u64, tell: bool) -> Life {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut machine = Machine::new(true);
    let before = if dice.one_in(3) { Before::Bare } else { Before::Full };
    let mut point = machine.birth(before);
    let mut life = Life::default();
    // Some lives are quiet, others are not; in few of them a second operator acts late.
    let (calm, lingers) = (3 + dice.below(40), dice.one_in(4));
    for _ in 0..LONG {
        if point.object.gone {
            break;
        }
        machine.pass(dice.one_of(&[0, 1, 1, 2, 20]));
        let event = choose(&mut dice, point, calm, lingers);
        if let Some(after) = machine.happen(point, event) {
            if tell {
                println!("{event:?}");
            }
            point = after;
            life.events += 1;
        }
    }
    for steps in 0.. {
        assert!(steps < 3000, "I4: never comes to rest");
        let Some(after) = machine.calm(point) else { break };
        point = after;
        life.events += 1;
    }
    let status = machine.status(point.status);
    Life { outcome: status.outcome, held: status.hold.is_some(), runs: status.run, ..life }
}

fn choose(dice: &mut Dice, point: Point, calm: usize, lingers: bool) -> Event {
    let cut = |dice: &mut Dice| {
        let how = dice.one_of(&[Cut::Crash, Cut::Crash, Cut::Trouble, Cut::Trouble, Cut::Refusal]);
        dice.one_in(calm).then(|| (u8::try_from(dice.below(4)).unwrap(), how))
    };
    if dice.one_in(calm * 4) {
        let troubles: Vec<Trouble> = Trouble::all().collect();
        return Event::Trouble(dice.one_of(&troubles));
    }
    if dice.one_in(calm * 6) {
        // Wishes that end a life are rarer than those that go on with it.
        let wish = dice.one_of(&Wish::ALL);
        let ends = matches!(wish, Wish::Cancel | Wish::Delete | Wish::Acknowledge);
        return Event::User(if ends && !dice.one_in(4) { Wish::Retry } else { wish });
    }
    if point.object.suspend && dice.one_in(10) {
        return Event::User(Wish::GoOn);
    }
    match dice.below(10) {
        0..4 => Event::World(dice.one_of(&Free::PROGRESS)),
        4 => Event::World(Free::Writes),
        5 if lingers && point.lingering.is_none() && dice.one_in(4) => Event::Linger,
        5 if point.lingering.is_some() && dice.one_in(4) => Event::Wake(cut(dice)),
        _ => Event::Visit(cut(dice)),
    }
}

/// So many lives. Every end must be among them.
pub fn many(lives: u64) {
    let (mut events, mut runs, mut ends) = (0, 0, [0_usize; 5]);
    for seed in 0..lives {
        let life = catch_unwind(|| live(seed, false)).unwrap_or_else(|_| panic!("replay with SEED={seed}"));
        events += life.events;
        runs += life.runs;
        let end = match life.outcome {
            Some(Outcome::Succeeded) => 0,
            Some(Outcome::Failed) => 1,
            Some(Outcome::Cancelled) => 2,
            None if life.held => 3,
            None => 4,
        };
        ends[end] += 1;
    }
    let [succeeded, undone, cancelled, held, gone] = ends;
    println!(
        "{lives} lives at random, {events} events, {runs} runs: {succeeded} succeeded, {undone} undone, {cancelled} cancelled, \
         {held} held, {gone} gone or planned only"
    );
    assert!(lives < 1000 || ends.iter().all(|n| *n > 20), "the lives must come to every end: {ends:?}");
}
