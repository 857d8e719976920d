//! The words about going back: what a rollback costs, what it saved, what an undo that is stuck has left, and what `spec.unfence` means.

use super::advice::{self, fitted};
use super::record::LIMIT;
use super::summary::bytes;
use crate::api::conditions::reasons;
use crate::api::{Outcome, PostgresMigrationSpec, PostgresMigrationStatus, Side, StepName, StepState};
use crate::archive::keys;

/// Said of a database that `spec.unfence` has opened.
pub const UNFENCED: &str =
    "The old database is open again, because spec.unfence is set: both databases take writes, and nothing keeps them equal.";

/// Said where an object moved nothing itself.
pub const NOTHING_HERE: &str = " This object moved nothing: spec.rollback and spec.unfence have nothing to act on.";

/// What a rollback would take out of sight, where that would be saved, and what has to be set: `spec.rollback` does not say that
/// this is known.
pub fn unacknowledged(spec: &PostgresMigrationSpec, status: &PostgresMigrationStatus) -> String {
    let name = spec.databases.first().map_or("", |d| d.target_name());
    let resumed = status.steps.iter().find(|s| s.name == StepName::Resume).and_then(|s| s.start_time.as_ref());
    let since = resumed.map_or_else(String::new, |t| format!(" since {}", t.0));
    let place = status.archive.as_ref().map_or_else(
        || "the bucket".to_owned(),
        |archive| format!("the bucket as {}/{}", archive.bucket, keys::saved(&archive.key, 1)),
    );
    let what = format!(
        "spec.rollback is not acted on yet: the old database lacks whatever the application has written to {name} at {}:{}{since}. It would first be dumped into {place}, and only then dropped",
        spec.target.endpoint.host, spec.target.endpoint.port
    );
    let stands = "Nothing goes on, and nothing was undone.";
    fitted("", &what, &[stands, advice::next(reasons::ROLLBACK_NOT_ACKNOWLEDGED)], LIMIT)
}

/// How a run that was called off begins anew, as the spec stands now.
pub fn anew(spec: &PostgresMigrationSpec, status: &PostgresMigrationStatus) -> String {
    let set = match (spec.cancel, spec.rollback.is_some()) {
        (true, true) => "take spec.cancel and spec.rollback away",
        (true, false) => "take spec.cancel away",
        (false, true) => "take spec.rollback away",
        (false, false) => "",
    };
    match (set, status.start_time.is_some()) {
        ("", true) => "To begin anew, raise spec.retry.".into(),
        ("", false) => "It begins anew by itself.".into(),
        (set, true) => format!("To begin anew, {set} and raise spec.retry."),
        (set, false) => format!("To begin anew, {set}."),
    }
}

/// Where the rows are that the application had written to the new database; empty when there was nothing to save.
pub fn saved(status: &PostgresMigrationStatus) -> String {
    let Some(saved) = &status.saved else { return String::new() };
    match &saved.kept_as {
        Some(name) if !status.resumed => format!(
            "Rows were changed in the new database after it was published, by a schema job or by somebody who is not in the spec: it is kept on the target's server as database {name}."
        ),
        Some(name) => format!(
            "What the application had written to the new database could not be saved in the bucket: it is kept on the target's server as database {name}."
        ),
        None if saved.verified => format!(
            "What the application had written to the new database is in {}/{} ({}, SHA-256 {}), which pg_restore can read.",
            saved.bucket,
            saved.key,
            bytes(saved.bytes.unwrap_or(0)),
            saved.sha256.clone().unwrap_or_default()
        ),
        None => String::new(),
    }
}

/// What became of the rows of the application between two statuses, as a reason and words for an event.
pub fn news(before: &PostgresMigrationStatus, after: &PostgresMigrationStatus) -> Option<(&'static str, String)> {
    let settled = |status: &PostgresMigrationStatus| {
        let saved = status.saved.as_ref()?;
        match (saved.verified, saved.kept_as.is_some() && status.staging.is_none()) {
            (_, true) => Some(reasons::TARGET_WRITES_KEPT),
            (true, _) => Some(reasons::TARGET_WRITES_SAVED),
            (false, false) => None,
        }
    };
    let now = settled(after)?;
    (settled(before) != Some(now)).then(|| (now, saved(after)))
}

/// How the old database of a migration that has succeeded stands.
pub fn old_database(status: &PostgresMigrationStatus) -> String {
    let fence = status.steps.iter().find(|s| s.name == StepName::Fence);
    match fence {
        Some(e) if e.state == StepState::Undone => UNFENCED.into(),
        Some(e) if e.state == StepState::Undoing && status.outcome == Some(Outcome::Succeeded) => {
            let doing = e.message.as_ref().map_or_else(String::new, |m| format!(": {m}"));
            format!("The old database is being opened, because spec.unfence is set{doing}")
        }
        Some(_) | None => "The old database is kept, unchanged and fenced.".into(),
    }
}

/// What an undo that keeps failing has not put back yet, in the order in which it would: what is left to a person where the cause
/// cannot be mended. As much of it as leaves room for that cause, at least the first.
pub fn outstanding(status: &PostgresMigrationStatus) -> String {
    let stands = |step: StepName| status.steps.iter().any(|s| s.name == step && s.state != StepState::Undone);
    let mut left = Vec::new();
    if stands(StepName::SchemaJob) && status.schema_jobs.iter().any(|job| job.created) {
        left.push("schema jobs".to_owned());
    }
    if stands(StepName::Publish) && status.publication.is_some() {
        left.push("the database's name on the target".to_owned());
    }
    if let Some(settings) = status.repointed.as_ref().filter(|_| stands(StepName::Repoint)) {
        left.push(format!("settings of the application (previous values: Secret {})", settings.previous_values));
    }
    if let Some(copy) = status.staging.as_ref().filter(|_| stands(StepName::Restore)) {
        // Once it was taken back it has another name.
        let name = status.saved.as_ref().map_or(&copy.database, |saved| &saved.database);
        left.push(format!("copy {name:?} on the target"));
    }
    if let Some(archive) = status.archive.as_ref().filter(|_| stands(StepName::Dump)) {
        left.push(format!("dump {}/{}", archive.bucket, archive.key));
    }
    if status.fence.is_some() && stands(StepName::Fence) {
        left.push("fence of the source database".to_owned());
    }
    // Both clusters may have a namespace and a workload of the same names.
    let stopped = status.quiesced.iter().filter(|q| !q.restored && stands(StepName::Quiesce));
    left.extend(stopped.map(|q| {
        let side = if q.side == Side::Source { "source" } else { "target" };
        format!("{side} {:?} {}/{}", q.kind, q.namespace, q.name)
    }));
    let mut room = LIMIT / 2;
    let named = left.iter().take_while(|words| {
        let fits = words.chars().count() < room;
        room = room.saturating_sub(words.chars().count() + 2);
        fits
    });
    let named = named.count().max(1);
    match left.get(..named) {
        None => String::new(),
        Some(first) if named == left.len() => format!("Not put back yet: {}.", first.join(", ")),
        Some(first) => format!("Not put back yet: {} and {} more, see the status.", first.join(", "), left.len() - named),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ArchiveStatus, Rollback, RollbackAcknowledgement, Saved};
    use crate::plan::checks::fixtures::spec;
    use crate::plan::decide::{Back, back};
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn resumed() -> PostgresMigrationStatus {
        PostgresMigrationStatus {
            run: 1,
            start_time: Some(Time(Timestamp::from_second(1).unwrap())),
            outcome: Some(Outcome::Succeeded),
            resumed: true,
            archive: Some(ArchiveStatus { bucket: "b".into(), key: "p/d_1.dump".into(), ..ArchiveStatus::default() }),
            ..PostgresMigrationStatus::default()
        }
    }

    #[test]
    fn a_rollback_that_costs_rows_says_where_they_will_be_and_what_to_set() {
        let mut spec = PostgresMigrationSpec { rollback: Some(Rollback::default()), ..spec() };
        let mut status = resumed();
        assert_eq!(back(&spec, &status), Back::Unacknowledged);
        let said = unacknowledged(&spec, &status);
        for words in ["b/p/saved/d_1.dump", "nothing was undone", "spec.rollback.acknowledge", "[TargetWrites]"] {
            assert!(said.contains(words), "{words}: {said}");
        }
        spec.rollback = Some(Rollback { acknowledge: vec![RollbackAcknowledgement::TargetWrites], ..Rollback::default() });
        assert_eq!(back(&spec, &status), Back::Wanted);
        status.completion = Some(crate::api::Completion { earlier: true, ..crate::api::Completion::default() });
        assert_eq!(back(&spec, &status), Back::No, "an object that moved nothing has nothing to take back");
    }

    #[test]
    fn what_became_of_the_rows_is_told_once() {
        let mut before = resumed();
        before.staging = Some(crate::api::Staging::default());
        before.saved = Some(Saved { bucket: "b".into(), key: "k".into(), attempt: 1, ..Saved::default() });
        assert_eq!((news(&resumed(), &before), saved(&before)), (None, String::new()));
        let mut after = before.clone();
        after.saved.as_mut().unwrap().verified = true;
        assert_eq!(news(&before, &after).map(|(reason, _)| reason), Some(reasons::TARGET_WRITES_SAVED));
        assert_eq!(news(&after, &after), None);
        let mut kept = before.clone();
        kept.saved.as_mut().unwrap().kept_as = Some("d_k1".into());
        assert_eq!(news(&before, &kept), None, "it has not got that name yet");
        kept.staging = None;
        let (reason, words) = news(&before, &kept).unwrap();
        assert!(reason == reasons::TARGET_WRITES_KEPT && words.contains("d_k1"), "{words}");
        assert!(saved(&kept).starts_with("What the application had written"), "{}", saved(&kept));
        kept.resumed = false;
        assert!(saved(&kept).starts_with("Rows were changed") && saved(&kept).contains("d_k1"), "{}", saved(&kept));
    }

    #[test]
    fn what_is_left_has_the_name_that_it_has_now() {
        let mut status = resumed();
        status.staging = Some(crate::api::Staging { database: "d_s".into(), ..crate::api::Staging::default() });
        let job = |created| crate::api::SchemaJobStatus { name: "up".into(), job: "j".into(), created, succeeded: false };
        status.schema_jobs = vec![job(false)];
        for step in [StepName::Restore, StepName::SchemaJob] {
            super::super::record::begin(&mut status, step, Timestamp::from_second(2).unwrap());
        }
        assert_eq!(outstanding(&status), "Not put back yet: copy \"d_s\" on the target.");
        status.schema_jobs = vec![job(true)];
        status.saved = Some(crate::api::Saved { database: "d_k1".into(), ..crate::api::Saved::default() });
        assert_eq!(outstanding(&status), "Not put back yet: schema jobs, copy \"d_k1\" on the target.");
        status.steps.iter_mut().for_each(|step| step.state = StepState::Undone);
        assert_eq!(outstanding(&status), "");
    }

    #[test]
    fn a_rollback_says_since_when_the_application_has_been_writing() {
        let mut status = resumed();
        for (second, step) in [(30, StepName::SchemaJob), (60, StepName::Resume)] {
            super::super::record::begin(&mut status, step, Timestamp::from_second(second).unwrap());
        }
        let said = unacknowledged(&spec(), &status);
        assert!(said.contains(" since 1970-01-01T00:01:00Z. It would first be dumped"), "{said}");
    }

    #[test]
    fn the_old_database_is_called_what_it_is() {
        let mut status = resumed();
        let kept = "The old database is kept, unchanged and fenced.";
        assert_eq!(old_database(&status), kept, "of an object that never got there");
        super::super::record::begin(&mut status, StepName::Fence, Timestamp::from_second(2).unwrap());
        let mut said = |state, outcome| {
            let e = &mut status.steps[0];
            (e.state, e.message, status.outcome) = (state, Some("1 to go".into()), outcome);
            old_database(&status)
        };
        assert_eq!(said(StepState::Done, Some(Outcome::Succeeded)), kept);
        assert_eq!(said(StepState::Undone, Some(Outcome::Succeeded)), UNFENCED);
        let opening = said(StepState::Undoing, Some(Outcome::Succeeded));
        assert_eq!(opening, "The old database is being opened, because spec.unfence is set: 1 to go");
        assert_eq!(said(StepState::Undoing, None), kept, "that is an undo of the whole");
    }

    #[test]
    fn all_that_stands_is_named_in_the_order_of_an_undo_as_far_as_there_is_room() {
        let mut status = resumed();
        for leg in &crate::plan::itinerary::ITINERARY {
            super::super::record::begin(&mut status, leg.step, Timestamp::from_second(2).unwrap());
        }
        let publication = serde_json::json!({"originals": "{}", "published": true});
        status.publication = serde_json::from_value(publication).unwrap();
        status.repointed = Some(crate::api::Repointed { previous_values: "keep".into(), ..crate::api::Repointed::default() });
        status.fence = serde_json::from_value(serde_json::json!({"method": "Swap", "originals": "{}"})).unwrap();
        let stopped = |side: &str, name: &str, restored: bool| {
            let text = serde_json::json!({"side": side, "kind": "Deployment", "namespace": "n", "name": name, "uid": "u", "restored": restored});
            serde_json::from_value::<crate::api::Quiesced>(text).unwrap()
        };
        status.quiesced = vec![stopped("Source", "api", false), stopped("Target", "web", false), stopped("Source", "up", true)];
        assert_eq!(
            outstanding(&status),
            "Not put back yet: the database's name on the target, settings of the application (previous values: Secret keep), \
             dump b/p/d_1.dump, fence of the source database, source Deployment n/api, target Deployment n/web."
        );
        // Half of a message is for the cause: of 600 characters a workload, none fits behind the four; of one alone, all of it does.
        let long = "x".repeat(600);
        status.quiesced = vec![stopped("Source", &long, false), stopped("Source", &long, false)];
        assert!(outstanding(&status).ends_with("fence of the source database and 2 more, see the status."));
        status.steps.iter_mut().filter(|e| e.name != StepName::Quiesce).for_each(|e| e.state = StepState::Undone);
        assert!(outstanding(&status).ends_with(&format!("n/{long} and 1 more, see the status.")));
        status.quiesced.iter_mut().for_each(|q| q.name = "x".repeat(235));
        assert!(outstanding(&status).ends_with("and 1 more, see the status."), "2 x 255 characters, and 2 between");
        status.quiesced[1].name.truncate(230);
        assert!(!outstanding(&status).contains("more"), "{}", outstanding(&status));
    }

    #[test]
    fn how_to_begin_anew_depends_on_what_is_set() {
        let mut spec = PostgresMigrationSpec { cancel: true, ..spec() };
        let mut status = resumed();
        assert_eq!(anew(&spec, &status), "To begin anew, take spec.cancel away and raise spec.retry.");
        spec.cancel = false;
        assert_eq!(anew(&spec, &status), "To begin anew, raise spec.retry.");
        (spec.rollback, status.start_time) = (Some(Rollback::default()), None);
        assert_eq!(anew(&spec, &status), "To begin anew, take spec.rollback away.");
    }
}
