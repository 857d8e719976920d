//! What to do next about a failure, one sentence for each reason. Findings of the checks say it themselves: they know more.
//!
//! Messages of failures come from whatever failed: a server, a tool, Kubernetes. They say what happened and why; this table
//! adds what a person does about it. The long form of each entry is in `docs/troubleshooting.md`.

use crate::api::conditions::reasons as r;

/// What to do about a failure for `reason`; empty for reasons that are no failures.
pub fn next(reason: &str) -> &'static str {
    match reason {
        r::STATUS_LOST => "Find out who changes the status: nobody but the operator may.",
        r::TRANSIENT | r::QUERY_FAILED => "Look at the pod, its node and the way between the clusters, and at the server's log.",
        r::DEADLINE_EXCEEDED => "Look at that Job's pod with kubectl describe: image, quota, node.",
        r::OBJECT_NOT_FOUND => "Create the object, or correct its name.",
        r::REQUEST_REFUSED => {
            "Change what the server names: an admission policy, the object, the region or endpoint of the bucket."
        }
        r::MISSING_PERMISSION => "Grant the right with the Roles of config/migration, or with narrower ones.",
        r::SECRET_NOT_FOUND => "Create the Secret, or correct the name and key in the spec.",
        r::KUBECONFIG_REFUSED => "Make one that is accepted with config/kubeconfig.",
        r::CLUSTER_UNREACHABLE => "Check the address of the API server and the network between the clusters.",
        r::CLUSTER_UNAUTHORIZED => "Put a fresh kubeconfig into the Secret, with config/kubeconfig.",
        r::POD_NOT_READY => "Bring exactly one pod of the server up, or narrow the selector.",
        r::POD_CHANGED => "See why the server's pod was replaced or is not ready.",
        r::SERVER_CHANGED => "Find out why another server answers there; never point the migration at it before that.",
        r::TOOL_NOT_FOUND => "Name the container that holds psql, pg_dump and pg_restore.",
        r::ADMIN_LOGIN_FAILED => "Name a role that may log in over the local socket as adminUser, or correct pg_hba.conf.",
        r::SERVER_UNAVAILABLE => {
            "See in its pod and log why the server restarts, is still starting, or has no slot left (max_connections)."
        }
        r::DATABASE_NOT_FOUND => "Correct the name of the database.",
        r::TARGET_NOT_EMPTY => "Choose another targetName, or existingTarget: SetAside.",
        r::ENDPOINT_MISMATCH => "Correct the endpoint, or the Service and the NetworkPolicy on the way to it.",
        r::FENCE_NOT_POSSIBLE => "Do that, or use a superuser as adminUser with fence: Swap.",
        r::ROLLBACK_NOT_ACKNOWLEDGED => {
            "To go back, set spec.rollback.acknowledge to [TargetWrites]; to stay, take spec.rollback away."
        }
        r::TARGET_WRITES_KEPT => "Look into that database, save what must be kept, then drop it by hand.",
        r::ALREADY_MIGRATED => "Give this object another name, or delete it: the move that it is called after is over.",
        r::ARCHIVE_TOO_LARGE => "Make the database smaller first: an archive is one S3 object.",
        r::BUCKET_NOT_FOUND => "Create the bucket, or correct its name.",
        r::BUCKET_FORBIDDEN => "Correct the keys in the Secret, or let them write, list and delete below the prefix.",
        r::BUCKET_UNREACHABLE => "Check endpoint, CA bundle and network, from this cluster.",
        r::SPEC_INVALID => "Correct the spec.",
        r::WRITERS_STILL_RUNNING => "See what keeps those pods: finalizers, long grace periods, a node that is gone.",
        r::FENCE_FAILED => "Stop what stands in the way, and name its workload in spec.source.writers.",
        r::DUMP_FAILED => "Mend what pg_dump names; the server's log tells more.",
        r::ARCHIVE_DAMAGED => "Find out who or what writes into the bucket below this prefix.",
        r::RESTORE_FAILED => "Mend what pg_restore names, on the source or at the target.",
        r::NOT_EQUAL => {
            "Do not use this copy. Look at what the differences have in common: extensions, triggers, locale, versions, somebody in the staging database."
        }
        r::SOURCE_CHANGED => "Find the writer that got past the fence before the next run.",
        r::PUBLISH_FAILED => "End the sessions in the way, or rename the database that holds the name.",
        r::REPOINT_NOT_FOUND => "Put the setting back where the spec names it.",
        r::REPOINT_FAILED => "Make the setting one that can be written, or restore the Secret with the previous values.",
        r::SCHEMA_JOB_FAILED => "Mend what the log names; a new Job is made from the live template.",
        r::NOT_AVAILABLE => "Look at its pods: image, probes, configuration.",
        r::MOVER_LOST => "Look at that Job and its node: memory limit, eviction, image of another version.",
        r::CHANGED_BY_OTHERS => "Settle who owns the object: two hands on it undo each other.",
        r::SERVICE_ACCOUNT_NOT_ALLOWED => "config/render account prints one that is allowed.",
        _ => "",
    }
}

/// `what` with the advice behind it; of the two, `what` is cut when they are longer than `limit` characters together.
pub fn advised(what: &str, reason: &str, limit: usize) -> String {
    fitted("", what, &[next(reason)], limit)
}

/// `head`, then `what` as a sentence, then each of `tail`: at most `limit` characters, of which only `what` is cut. What a
/// server says may be of any length; what to do about it must not fall off the end.
pub fn fitted(head: &str, what: &str, tail: &[&str], limit: usize) -> String {
    let tail: String = tail.iter().filter(|part| !part.is_empty()).flat_map(|part| [" ", part]).collect();
    let room = limit.saturating_sub(head.chars().count() + tail.chars().count());
    let what = sentence(what);
    let what =
        if what.chars().count() <= room { what } else { what.chars().take(room.saturating_sub(1)).chain(['…']).collect() };
    format!("{head}{what}{tail}")
}

fn sentence(text: &str) -> String {
    let text = text.trim_end();
    if text.is_empty() || text.ends_with(['.', '!', '?', '…']) { text.to_owned() } else { format!("{text}.") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// What is no failure, and what the checks find and say themselves.
    const WITHOUT_ADVICE: &[&str] = &[
        r::UNKNOWN,
        r::PROGRESSING,
        r::SUSPENDED,
        r::PLANNED,
        r::BLOCKED,
        r::DONE,
        r::STEP_DONE,
        r::SUCCEEDED,
        r::FAILED,
        r::CLAIMED_BY_ANOTHER,
        r::UNDONE,
        r::UNDOING,
        r::CANCELLED,
        r::CANCEL_TOO_LATE,
        r::ROLLBACK_REQUESTED,
        r::TARGET_WRITES_SAVED,
        r::UNFENCED,
        r::DELETED,
        r::FENCE_REMAINS,
        r::SERVER_IS_STANDBY,
        r::TARGET_OLDER,
        r::SERVER_TOO_OLD,
        r::TOOL_VERSION_MISMATCH,
        r::SAME_DATABASE,
        r::NAME_TAKEN,
        r::DISK_TOO_SMALL,
        r::ENCODING_MISMATCH,
        r::LOCALE_MISMATCH,
        r::COLLATION_CHANGED,
        r::EXTENSION_UNAVAILABLE,
        r::EXTENSION_CHANGES,
        r::OWNER_NOT_READY,
        r::PREPARED_TRANSACTIONS,
        r::INDEX_BUILD_RUNNING,
        r::DATABASE_NAME_IN_EXPRESSION,
        r::SEARCH_PATH_DEPENDENCE,
        r::OWNERSHIP_CHANGES,
        r::LOCK_TABLE_SMALL,
        r::STANDBY_AWAY,
        r::ACCESS_RULES_BY_NAME,
        r::PROBE_LOGS_IN,
        r::NOT_CARRIED_OVER,
        r::WRITER_NOT_FOUND,
        r::SERVER_AMONG_WORKLOADS,
        r::CONTROLLED_BY_OTHERS,
        r::AUTOSCALED,
        r::MANAGED_BY_GITOPS,
        r::KIND_NOT_SUPPORTED,
        r::REPLICAS_NOT_KNOWN,
    ];

    #[test]
    fn every_failure_has_advice_and_shares_it_with_its_like_only() {
        let without: Vec<_> = r::ALL.iter().copied().filter(|reason| next(reason).is_empty()).collect();
        assert_eq!(without, WITHOUT_ADVICE);
        let texts: BTreeSet<_> = r::ALL.iter().map(|reason| next(reason)).collect();
        // The empty one, and TRANSIENT and QUERY_FAILED share theirs.
        assert_eq!(texts.len(), r::ALL.len() - (without.len() - 1) - 1);
    }

    #[test]
    fn what_to_do_never_falls_off_the_end() {
        let text = advised(&"ä".repeat(5000), r::NOT_EQUAL, 1024);
        assert_eq!(text.chars().count(), 1024);
        assert!(text.ends_with(next(r::NOT_EQUAL)), "{text}");
        assert_eq!(advised("it broke", r::DATABASE_NOT_FOUND, 1024), "it broke. Correct the name of the database.");
        assert_eq!(fitted("Step 1: ", "it broke!", &["", "Do that."], 1024), "Step 1: it broke! Do that.");
    }
}
