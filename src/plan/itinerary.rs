//! The runbook as a table: its order, and what each step may cost. Undo walks it backwards.

use crate::api::StepName;
use crate::api::conditions::types;

/// One line of the runbook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg {
    /// The step.
    pub step: StepName,
    /// What it does, for people: continues "The operator is ...".
    pub doing: &'static str,
    /// Condition that is True once it is done.
    pub condition: Option<&'static str>,
    /// Whether it changes anything outside the object's own status.
    pub has_effects: bool,
    /// How long failures that usually pass are tried again, in seconds.
    pub patience_seconds: i64,
    /// How often a mover is started for it.
    pub attempts: i64,
}

const fn leg(step: StepName, doing: &'static str, has_effects: bool, patience_seconds: i64) -> Leg {
    Leg { step, doing, condition: None, has_effects, patience_seconds, attempts: 1 }
}

impl Leg {
    const fn ends(self, condition: &'static str) -> Self {
        Self { condition: Some(condition), ..self }
    }

    const fn moves_data(self) -> Self {
        Self { attempts: 4, ..self }
    }
}

/// The steps in their order.
pub const ITINERARY: [Leg; 15] = [
    leg(StepName::Pin, "finding both databases", false, 45),
    leg(StepName::Preflight, "checking everything that can be checked without a change", false, 45).ends(types::PLANNED),
    leg(StepName::Quiesce, "stopping the writers", true, 300).ends(types::QUIESCED),
    leg(StepName::Fence, "closing the source database", true, 120).ends(types::FENCED),
    leg(StepName::Dump, "dumping the source into the bucket", true, 300).moves_data(),
    leg(StepName::VerifyArchive, "reading the dump back from the bucket", true, 300).moves_data().ends(types::ARCHIVED),
    leg(StepName::Restore, "restoring the dump beside the target database", true, 300).moves_data(),
    leg(StepName::Compare, "comparing every row of both databases", true, 300).moves_data(),
    leg(StepName::Analyze, "gathering planner statistics", true, 300).moves_data(),
    leg(StepName::Witness, "proving that the source has not changed", false, 120).ends(types::VERIFIED),
    leg(StepName::Publish, "giving the copy its final name", true, 120).ends(types::PUBLISHED),
    leg(StepName::Repoint, "leading the application to the new database", true, 120),
    leg(StepName::SchemaJob, "bringing the schema up to date", true, 120),
    leg(StepName::Resume, "starting the application", true, 900),
    leg(StepName::Keep, "tidying up", true, 300),
];

/// The line of `step`.
pub fn leg_of(step: StepName) -> &'static Leg {
    // Every step stands in the table once: a test holds it.
    ITINERARY.iter().find(|l| l.step == step).unwrap_or(&ITINERARY[0])
}

/// Place of `step` in the order, from 1.
pub fn number(step: StepName) -> usize {
    ITINERARY.iter().position(|l| l.step == step).map_or(0, |p| p + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_stands_in_the_table_once_and_in_the_order_of_its_enum() {
        let steps: Vec<_> = ITINERARY.iter().map(|l| l.step).collect();
        let mut sorted = steps.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(steps, sorted);
        assert_eq!(steps.len(), StepName::Keep as usize + 1);
        for step in steps {
            assert_eq!(leg_of(step).step, step);
        }
    }

    #[test]
    fn what_moves_data_is_tried_more_than_once_and_takes_effect() {
        use StepName::{Analyze, Compare, Dump, Restore, VerifyArchive};
        for leg in &ITINERARY {
            let moves = [Dump, VerifyArchive, Restore, Compare, Analyze].contains(&leg.step);
            assert_eq!(leg.attempts, if moves { 4 } else { 1 }, "{:?}", leg.step);
            assert!(leg.has_effects || !moves, "an undo ends its movers");
        }
        assert_eq!((number(StepName::Pin), number(Dump), number(StepName::Keep)), (1, 5, 15));
    }
}
