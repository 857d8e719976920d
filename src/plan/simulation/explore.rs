//! Every life with at most so many disturbances, whatever they are and whenever they come: breadth first over the different
//! (status, object, world) points. From each point it is also seen that all comes to its end once everybody calms down.

use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasherDefault;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::call::Cut;
use super::events::{Event, Free, Trouble, Wish};
use super::machine::{Back, Fold, Machine, Point, fingerprint};
use super::world::Before;
use crate::api::Outcome;

/// What was seen. Printed for people.
#[derive(Clone, Copy, Debug, Default)]
#[allow(dead_code)]
pub struct Figures {
    /// Different points.
    pub states: usize,
    /// Ways from one to another, also those that led to a point seen before.
    pub transitions: usize,
    /// Events on the longest way to a point.
    pub depth: u32,
    /// Different statuses among them.
    pub statuses: usize,
    /// Points at which the run has succeeded.
    pub succeeded: usize,
    /// Points at which it has failed, and everything is undone.
    pub undone: usize,
    /// Points at which it was called off.
    pub cancelled: usize,
    /// Points at which a person is asked.
    pub held: usize,
    /// Points at which the object is gone.
    pub gone: usize,
    /// Points at which a run was rolled back after the application had run.
    pub rolled_back: usize,
    /// Points at which a rollback waits for a word.
    pub asked: usize,
    /// Points at which the old database is open beside the new one, by a user's word.
    pub unfenced: usize,
    /// Points at which an operator has acted on what was no longer so.
    pub late: usize,
}

type Marks = HashSet<u64, BuildHasherDefault<Fold>>;

/// How a point was come to.
struct Way {
    from: u32,
    event: Event,
    depth: u32,
}

struct Explorer {
    machine: Machine,
    seen: Marks,
    restful: Marks,
    ways: Vec<Way>,
    figures: Figures,
}

/// Visits every point that `disturbances` can lead to from a world that was as `before`.
pub fn explore(before: Before, disturbances: usize) -> Figures {
    let mut machine = Machine::new(false);
    let birth = machine.birth(before);
    let mut all =
        Explorer { machine, seen: Marks::default(), restful: Marks::default(), ways: Vec::new(), figures: Figures::default() };
    // Points with fewer disturbances behind them come first: whoever comes again later has fewer left, and nothing new to show.
    let mut layers: Vec<VecDeque<(Point, u32)>> = vec![VecDeque::new(); disturbances + 1];
    all.seen.insert(fingerprint(&birth));
    layers[0].push_back((birth, 0));
    all.ways.push(Way { from: 0, event: Event::Visit(None), depth: 0 });
    for layer in 0..=disturbances {
        while let Some((point, at)) = layers[layer].pop_front() {
            let result = catch_unwind(AssertUnwindSafe(|| all.expand(point, at, layer, &mut layers)));
            if let Err(broken) = result {
                println!("broken after {}", all.story(at));
                resume_unwind(broken);
            }
        }
    }
    Figures { states: all.seen.len(), statuses: all.machine.statuses(), ..all.figures }
}

impl Explorer {
    fn expand(&mut self, point: Point, at: u32, layer: usize, layers: &mut [VecDeque<(Point, u32)>]) {
        self.calm_down(point);
        self.count(point);
        let mut events: Vec<(Event, usize)> = Vec::new();
        let effects = if point.object.gone { 0 } else { self.machine.visit(point, (point.status, point.object), None).effects };
        if !point.object.gone {
            events.push((Event::Visit(None), 0));
        }
        events.extend(Free::PROGRESS.into_iter().chain([Free::Writes]).map(|free| (Event::World(free), 0)));
        if let Some(seen) = point.lingering {
            events.push((Event::Wake(None), 0));
            if layer + 1 < layers.len() {
                let effects = self.machine.visit(point, seen, None).effects;
                events.extend((0..=effects).map(|after| (Event::Wake(Some((after, Cut::Crash))), 1)));
            }
        } else if layer + 1 < layers.len() {
            events.push((Event::Linger, 1));
        }
        if layer + 1 < layers.len() && !point.object.gone {
            for cut in [Cut::Crash, Cut::Trouble, Cut::Refusal] {
                events.extend((0..=effects).map(|after| (Event::Visit(Some((after, cut))), 1)));
            }
            events.extend(Trouble::all().map(|trouble| (Event::Trouble(trouble), 1)));
            // Before the application may write, an acknowledgement and `unfence` say nothing that changes a decision.
            let early = !self.machine.status(point.status).resumed;
            let wishes = Wish::ALL.into_iter().filter(|wish| !early || !matches!(wish, Wish::Acknowledge | Wish::Unfence));
            events.extend(wishes.map(|wish| (Event::User(wish), usize::from(wish != Wish::GoOn))));
        }
        for (event, cost) in events {
            let after = catch_unwind(AssertUnwindSafe(|| self.machine.happen(point, event)));
            let Some(after) = after.unwrap_or_else(|broken| {
                println!("broken by {event:?}");
                resume_unwind(broken)
            }) else {
                continue;
            };
            self.figures.transitions += 1;
            if self.seen.insert(fingerprint(&after)) {
                let depth = self.ways[at as usize].depth + 1;
                self.figures.depth = self.figures.depth.max(depth);
                layers[layer + cost].push_back((after, u32::try_from(self.ways.len()).unwrap()));
                self.ways.push(Way { from: at, event, depth });
            }
        }
    }

    fn count(&mut self, point: Point) {
        let status = self.machine.status(point.status);
        let figures = &mut self.figures;
        match status.outcome {
            Some(Outcome::Succeeded) => figures.succeeded += 1,
            Some(Outcome::Failed) => figures.undone += 1,
            Some(Outcome::Cancelled) => figures.cancelled += 1,
            None => {}
        }
        let asked = status.resumed && status.undo.is_none() && point.object.rollback == Back::Asked;
        figures.asked += usize::from(asked && status.outcome != Some(Outcome::Cancelled));
        figures.rolled_back += usize::from(status.outcome == Some(Outcome::Cancelled) && status.resumed);
        figures.unfenced += usize::from(status.outcome == Some(Outcome::Succeeded) && point.world.source_accepts());
        figures.held += usize::from(status.hold.is_some());
        figures.gone += usize::from(point.object.gone);
        figures.late += usize::from(point.late);
    }

    /// Follows the calm way until it ends, or meets one that is known to end.
    fn calm_down(&mut self, point: Point) {
        let mut passed = vec![fingerprint(&point)];
        let mut now = point;
        while !self.restful.contains(&passed[passed.len() - 1]) {
            assert!(passed.len() < 500, "I4: never comes to rest");
            let Some(after) = self.machine.calm(now) else { break };
            now = after;
            passed.push(fingerprint(&now));
        }
        self.restful.extend(passed);
    }

    /// The events that led to a point.
    fn story(&self, at: u32) -> String {
        let mut events = Vec::new();
        let mut now = at;
        while now != 0 {
            let way = &self.ways[now as usize];
            events.push(format!("{:?}", way.event));
            now = way.from;
        }
        events.reverse();
        let lines: Vec<String> = events.chunk_by(|a, b| a == b).map(|same| format!("\n  {} x {}", same.len(), same[0])).collect();
        lines.concat()
    }
}
