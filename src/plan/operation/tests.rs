use super::*;

fn operation() -> Operation {
    Operation {
        version: OPERATION_VERSION,
        migration: MigrationRef { namespace: "a".into(), name: "b".into(), uid: "0d9b2b9e-6f5e-4f43-9d5c-3a0c9d1f4b11".into() },
        attempt: 3,
        task: Task::Verify(VerifyTask {
            archive: ArchiveEnd {
                bucket: "b".into(),
                endpoint: None,
                region: "us-east-1".into(),
                force_path_style: true,
                credentials_secret: "s".into(),
                ca_secret: None,
                prefix: "p".into(),
                key: "p/x.dump".into(),
            },
            keys: vec!["p/x.dump".into()],
            run: "r".into(),
            run_manifest_key: "p/run.manifest.json".into(),
        }),
    }
}

#[test]
fn a_document_survives_its_way_through_json() {
    let text = serde_json::to_string(&operation()).unwrap();
    assert!(text.contains(r#""kind":"Verify""#), "{text}");
    assert_eq!(Operation::parse(&text).unwrap(), operation());
    assert!(Operation::parse(&text.replace(r#""version":1"#, r#""version":2"#)).unwrap_err().contains("version 2"));
}

#[test]
fn names_fit_where_they_go() {
    let operation = operation();
    assert_eq!(operation.job_name(), "pgm-0d9b2b9e-6f5e-4f43-9d5c-3a0c9d1f4b11-verify-3");
    let tag = operation.session_tag();
    assert_eq!(tag, "pgm/0d9b2b9e-6f5e-4f43-9d5c-3a0c9d1f4b11/m/verify/3");
    let uid = &operation.migration.uid;
    assert!(tag.starts_with(&mover_tag_prefix(uid)) && mover_tag_prefix(uid).starts_with(&session_tag_prefix(uid)));
    let widest = Operation { attempt: u32::MAX, ..operation };
    assert!(widest.job_name().len() <= 63, "a Job name is a label of its pods");
    assert!(widest.session_tag().len() <= 63, "the server cuts longer application names");
}

#[test]
fn a_termination_message_always_fits_and_keeps_its_totals() {
    let mut verdict = Verdict::new(TaskKind::Restore, 1, Reason::Done, "m".repeat(9000));
    verdict.not_restored = (0..200).map(|n| format!("grant {n} {}", "x".repeat(60))).collect();
    verdict.not_restored_total = 200;
    let text = verdict.termination_message();
    assert!(text.len() <= VERDICT_LIMIT);
    let read = Verdict::parse(&text).unwrap();
    assert_eq!(read.not_restored_total, 200);
    assert_eq!(read.outcome, Outcome::Succeeded);
}

#[test]
fn a_verdict_is_taken_from_the_end_of_the_output_of_its_own_operation_only() {
    let operation = operation();
    let said = Verdict::new(TaskKind::Verify, 3, Reason::Done, "whole").termination_message();
    let progress = r#"{"operation":"Verify","phase":"Sealing","bytesDone":1,"tablesDone":0}"#;
    let read = |output: &str| Verdict::at_the_end_of(output, &operation).map(|v| v.reason);
    assert_eq!(read(&format!("{progress}\n{said}\n")), Some(Reason::Done));
    for (what, output) in [
        ("nothing", String::new()),
        ("progress", format!("{progress}\n")),
        ("a part", format!("{progress}\n{}", &said[..said.len() - 1])),
        ("not the end", format!("{said}\n{progress}\n")),
        ("of another attempt", Verdict::new(TaskKind::Verify, 2, Reason::Done, "whole").termination_message()),
        ("of another task", Verdict::new(TaskKind::Dump, 3, Reason::Done, "whole").termination_message()),
    ] {
        assert_eq!(read(&output), None, "{what}");
    }
}

#[test]
fn what_does_not_move_says_why_and_when_it_is_given_up() {
    let mut progress = Progress {
        operation: TaskKind::Restore,
        line: 7,
        phase: Phase::Working,
        bytes_done: 38 << 20,
        bytes_total: Some(268 << 20),
        tables_done: 0,
        tables_total: None,
        indexes_done: 0,
        indexes_total: Some(40),
        rows_done: None,
        quiet: None,
    };
    assert_eq!(progress.words(), "38.0 MiB of about 268.0 MiB");
    progress.quiet = Some(Quiet { found: "the server is at work".into(), until: None });
    assert_eq!(progress.words(), "38.0 MiB of about 268.0 MiB; the server is at work");
    let until = Some(Time("2026-11-29T20:08:51.75Z".parse().unwrap()));
    progress.quiet = Some(Quiet { found: "db/pg-0[postgres] does not answer".into(), until });
    let line = serde_json::to_string(&progress).unwrap();
    let read: Progress = serde_json::from_str(&line).unwrap();
    assert_eq!(
        read.words(),
        "38.0 MiB of about 268.0 MiB; db/pg-0[postgres] does not answer; unless that changes, this attempt is given up at \
         2026-11-29T20:08:51Z"
    );
    progress = Progress { phase: Phase::Indexing, indexes_done: 12, quiet: None, ..progress };
    assert_eq!(progress.words(), "all rows are restored; index or constraint 12 of 40");
}

#[test]
fn a_mover_that_prints_nothing_is_told_of_and_then_given_up() {
    let at = |second| Timestamp::from_second(second).unwrap();
    let heard = Heard { line: 5, time: Time(at(1000)) };
    assert_eq!((pulse(None, 1, at(1000)), pulse(Some(&heard), 0, at(9000))), (Pulse::Noted, Pulse::Beats));
    let pulse = |line, second| pulse(Some(&heard), line, at(second));
    assert_eq!((pulse(6, 1059), pulse(6, 1060)), (Pulse::Beats, Pulse::Noted));
    // The operator was away for a day: a new line is a new line.
    assert_eq!(pulse(6, 90_000), Pulse::Noted);
    assert_eq!((pulse(5, 1150), pulse(5, 1151)), (Pulse::Beats, Pulse::Silent(at(1000))));
    assert_eq!((pulse(5, 1600), pulse(5, 1601)), (Pulse::Silent(at(1000)), Pulse::Lost(at(1000))));
}
