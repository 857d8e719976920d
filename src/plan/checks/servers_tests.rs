//! Each check of the servers against facts made by hand.

use super::super::fixtures::{blocked, database, place, role, server, warned};
use super::*;
use crate::postgres::catalog::Standby;

const V15: Version = Version(150_018);
const V17: Version = Version(170_011);

fn around() -> Surroundings {
    Surroundings {
        server: server(),
        database: database("app"),
        owner: Some(role("app_owner")),
        superusers: vec![],
        admin_is_shared: false,
        prepared: Capped { total: 0, items: vec![] },
        index_builds: vec![],
        subscriptions: vec![],
        slots: vec![],
        standbys: Some(Standbys { current_lsn: "0/1".into(), standbys: vec![], detached_slots: vec![] }),
        hba: Some(vec![]),
        no_entry: None,
        probes: vec![],
    }
}

fn fenced(asked: FenceMethod, change: impl FnOnce(&mut Surroundings)) -> Findings {
    let mut facts = around();
    change(&mut facts);
    let mut out = Findings::default();
    fence(&mut out, &place(Side::Source), asked, "app_f", &facts);
    out
}

fn standby(sync_state: &str) -> Standby {
    Standby {
        pid: 1,
        application_name: "s".into(),
        client: None,
        state: Some("streaming".into()),
        sync_state: Some(sync_state.into()),
        replay_lsn: None,
        caught_up: true,
        receiver_only: false,
    }
}

#[test]
fn an_ordinary_source_is_fenced() {
    assert_eq!(fenced(FenceMethod::Auto, |_| ()), Findings::default());
    assert_eq!(fenced(FenceMethod::Swap, |_| ()), Findings::default());
}

#[test]
fn what_cannot_be_fenced_is_refused() {
    type Change = fn(&mut Surroundings);
    let cases: [(Change, &str, &str, &[&str]); 7] = [
        (|f| f.database.is_template = true, reasons::FENCE_NOT_POSSIBLE, "spec.databases[0].name", &["\"app\""]),
        (|f| f.database.name = "postgres".into(), reasons::FENCE_NOT_POSSIBLE, "spec.databases[0].name", &["maintenance"]),
        (
            |f| {
                f.database.allow_connections = false;
                f.database.comment = Some("Moved to elsewhere".into());
            },
            reasons::FENCE_NOT_POSSIBLE,
            "spec.databases[0].name",
            &["Moved to elsewhere"],
        ),
        (
            |f| {
                let items = vec![PreparedTransaction { gid: "g1".into(), owner: "o".into(), age: 5 }];
                f.prepared = Capped { total: 3, items };
            },
            reasons::PREPARED_TRANSACTIONS,
            "spec.databases[0].name",
            &["\"g1\" and 2 more", "ROLLBACK PREPARED"],
        ),
        (
            |f| f.index_builds.push(IndexBuild { pid: 7, command: "CREATE INDEX CONCURRENTLY".into(), phase: "building".into() }),
            reasons::INDEX_BUILD_RUNNING,
            "spec.databases[0].name",
            &["CREATE INDEX CONCURRENTLY", "pid 7"],
        ),
        (
            |f| f.no_entry = Some("FATAL: no pg_hba.conf entry".into()),
            reasons::FENCE_NOT_POSSIBLE,
            "spec.databases[0].name",
            &["\"app_f\"", "no pg_hba.conf entry"],
        ),
        (
            |f| {
                f.server.synchronous_standby_names = "*".into();
                f.standbys.as_mut().unwrap().standbys.push(standby("async"));
            },
            reasons::FENCE_NOT_POSSIBLE,
            "spec.source.postgres",
            &["synchronous"],
        ),
    ];
    for (n, (change, reason, path, words)) in cases.into_iter().enumerate() {
        let out = fenced(FenceMethod::Auto, change);
        assert_eq!(out.blockers.len(), 1, "case {n}: {out:?}");
        blocked(&out, reason, path, words);
        let place_named = out.blockers[0].message.contains("pod old/postgres-0 of the old cluster");
        assert!(place_named, "case {n}: {}", out.blockers[0].message);
    }
}

/// An admin that is no superuser, and what it lacks.
const WEAK: [(fn(&mut Surroundings), &str); 4] = [
    (|f| f.server.createdb = false, "CREATEDB"),
    (|f| f.owner.as_mut().unwrap().inherited = false, "inherited membership"),
    (|f| f.owner = None, "inherited membership"),
    (|f| f.server.signal_backend = false, "pg_signal_backend"),
];

#[test]
fn an_admin_that_may_not_rename_cannot_swap() {
    let path = "spec.source.postgres.exec.adminUser";
    for (change, lacks) in WEAK {
        let weak = |f: &mut Surroundings| {
            f.server.superuser = false;
            change(f);
        };
        blocked(
            &fenced(FenceMethod::Swap, weak),
            reasons::FENCE_NOT_POSSIBLE,
            path,
            &[lacks, "old/postgres-0 of the old cluster"],
        );
        let fallen = fenced(FenceMethod::Auto, weak);
        warned(&fallen, reasons::FENCE_NOT_POSSIBLE, &[lacks, "layered"]);
        assert_eq!(fallen.blockers.is_empty(), lacks == "CREATEDB", "{fallen:?}");
    }
}

#[test]
fn the_layered_fence_has_needs_of_its_own() {
    let path = "spec.source.fence";
    let weak = |change: fn(&mut Surroundings)| {
        fenced(FenceMethod::Layered, |f| {
            f.server.superuser = false;
            f.server.createdb = false;
            change(f);
        })
    };
    assert_eq!(weak(|_| ()), Findings::default());
    assert_eq!(fenced(FenceMethod::Layered, |_| ()), Findings::default());
    let cases: [(fn(&mut Surroundings), &str); 5] = [
        (|f| f.server.createrole = false, "CREATEROLE"),
        (|f| f.owner.as_mut().unwrap().inherited = false, "inherited membership"),
        (|f| f.server.signal_backend = false, "pg_signal_backend"),
        (|f| f.admin_is_shared = true, "\"postgres\" itself"),
        (
            |f| {
                f.subscriptions.push(Subscription {
                    name: "sub".into(),
                    oid: 1,
                    enabled: true,
                    owner: "o".into(),
                    workers: vec![],
                })
            },
            "\"sub\"",
        ),
    ];
    for (change, word) in cases {
        blocked(&weak(change), reasons::FENCE_NOT_POSSIBLE, path, &[word, "old/postgres-0 of the old cluster"]);
    }
    assert_eq!(weak(|f| f.owner.as_mut().unwrap().login = false), Findings::default());
    let nobody_to_bar = weak(|f| {
        f.server.createrole = false;
        f.owner.as_mut().unwrap().login = false;
    });
    assert_eq!(nobody_to_bar, Findings::default());
}

#[test]
fn superusers_are_bound_by_a_swap_of_a_superuser_only() {
    let root = |asked: FenceMethod, superuser: bool| {
        fenced(asked, |f| {
            f.superusers = vec!["root".into()];
            f.server.superuser = superuser;
        })
    };
    let path = "spec.source.postgres.exec.adminUser";
    assert_eq!(root(FenceMethod::Auto, true), Findings::default());
    blocked(&root(FenceMethod::Auto, false), reasons::FENCE_NOT_POSSIBLE, path, &["\"root\"", "Swap"]);
    blocked(&root(FenceMethod::Layered, true), reasons::FENCE_NOT_POSSIBLE, path, &["\"root\"", "Layered"]);
}

#[test]
fn a_shared_admin_role_is_no_hindrance_to_the_swap() {
    assert_eq!(fenced(FenceMethod::Auto, |f| f.admin_is_shared = true), Findings::default());
}

#[test]
fn an_admin_that_is_no_superuser_may_fence_with_the_right_memberships() {
    assert_eq!(fenced(FenceMethod::Swap, |f| f.server.superuser = false), Findings::default());
    let synchronous = fenced(FenceMethod::Swap, |f| {
        f.server.synchronous_standby_names = "*".into();
        f.standbys.as_mut().unwrap().standbys.push(standby("quorum"));
    });
    assert_eq!(synchronous, Findings::default());
}

#[test]
fn what_stays_behind_is_said() {
    type Change = fn(&mut Surroundings);
    let cases: [(Change, &str, &str); 5] = [
        (
            |f| {
                f.subscriptions.push(Subscription {
                    name: "sub".into(),
                    oid: 1,
                    enabled: true,
                    owner: "o".into(),
                    workers: vec![],
                })
            },
            reasons::NOT_CARRIED_OVER,
            "\"sub\"",
        ),
        (
            |f| {
                f.slots.push(ReplicationSlot {
                    name: "cdc".into(),
                    plugin: None,
                    active: true,
                    active_pid: None,
                    temporary: false,
                    retained_bytes: None,
                });
            },
            reasons::NOT_CARRIED_OVER,
            "\"cdc\"",
        ),
        (|f| f.standbys.as_mut().unwrap().detached_slots.push("away".into()), reasons::STANDBY_AWAY, "\"away\""),
        (
            |f| {
                f.hba.as_mut().unwrap().push(HbaLine {
                    line: 12,
                    kind: "local".into(),
                    databases: vec!["app".into()],
                    users: vec![],
                    address: None,
                    method: "md5".into(),
                });
            },
            reasons::ACCESS_RULES_BY_NAME,
            "line 12",
        ),
        (|f| f.probes.push("psql -d app".into()), reasons::PROBE_LOGS_IN, "psql -d app"),
    ];
    for (change, reason, word) in cases {
        let out = fenced(FenceMethod::Auto, change);
        assert_eq!((out.blockers.len(), out.warnings.len()), (0, 1), "{out:?}");
        warned(&out, reason, &[word, "of the old cluster"]);
    }
    let at_rest = fenced(FenceMethod::Auto, |f| {
        f.subscriptions.push(Subscription { name: "sub".into(), oid: 1, enabled: false, owner: "o".into(), workers: vec![] });
    });
    assert_eq!(at_rest, Findings::default());
}

#[test]
fn only_a_login_to_this_database_counts_as_a_probe_that_logs_in() {
    let command = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    assert!(logs_in(&command("psql -d app -c SELECT"), "app"));
    assert!(logs_in(&["sh".into(), "-c".into(), "psql -d $POSTGRES_DB -c 'SELECT 1'".into()], "app"));
    assert!(!logs_in(&command("pg_isready -d app"), "app"));
    assert!(!logs_in(&command("psql -d postgres"), "app"));
}

#[test]
fn tools_that_are_missing_are_named() {
    let all = Tools { psql: Some(V15), dump: Some(V15), restore: Some(V15), lacking: vec![] };
    let judged = |side: Side, change: fn(&mut Tools)| {
        let mut tools = all.clone();
        change(&mut tools);
        let mut out = Findings::default();
        super::tools(&mut out, &place(side), "db", &tools);
        out
    };
    assert_eq!(judged(Side::Source, |t| t.restore = None), Findings::default());
    assert_eq!(judged(Side::Target, |t| t.dump = None), Findings::default());
    let path = "spec.source.postgres.exec.container";
    blocked(
        &judged(Side::Source, |t| t.dump = None),
        reasons::TOOL_NOT_FOUND,
        path,
        &["pg_dump", "\"db\"", "old/postgres-0 of the old cluster"],
    );
    blocked(&judged(Side::Source, |t| t.psql = None), reasons::TOOL_NOT_FOUND, path, &["psql"]);
    blocked(&judged(Side::Source, |t| t.lacking.push("mkfifo".into())), reasons::TOOL_NOT_FOUND, path, &["mkfifo"]);
    let path = "spec.target.postgres.exec.container";
    blocked(&judged(Side::Target, |t| t.restore = None), reasons::TOOL_NOT_FOUND, path, &["pg_restore"]);
}

#[test]
fn versions_that_do_not_fit_are_refused() {
    let judged = |source, dump, restore, target| {
        let mut out = Findings::default();
        versions(&mut out, &place(Side::Source), &place(Side::Target), Versions { source, dump, restore, target });
        out
    };
    assert_eq!(judged(V15, V15, V17, V17), Findings::default());
    let older = judged(V17, V17, V15, V15);
    assert_eq!(older.blockers[0].reason, reasons::TARGET_OLDER);
    blocked(&older, reasons::TARGET_OLDER, "spec.target.postgres", &["15.18", "17.11", "new/postgres-0 of this cluster"]);
    blocked(
        &judged(V17, V15, V17, V17),
        reasons::TOOL_VERSION_MISMATCH,
        "spec.source.postgres.exec.container",
        &["pg_dump 15.18"],
    );
    blocked(
        &judged(V15, V17, V15, V15),
        reasons::TOOL_VERSION_MISMATCH,
        "spec.source.postgres.exec.container",
        &["pg_dump 17.11"],
    );
    blocked(
        &judged(V15, V15, V15, V17),
        reasons::TOOL_VERSION_MISMATCH,
        "spec.target.postgres.exec.container",
        &["pg_restore 15.18"],
    );
    blocked(&judged(Version(140_000), V15, V15, V15), reasons::SERVER_TOO_OLD, "spec.source.postgres", &["14.0"]);
}

#[test]
fn both_ends_must_be_primaries_and_two_databases() {
    let (from, to) = (place(Side::Source), place(Side::Target));
    let judged = |change: fn(&mut Server, &mut Server), target_name: &str| {
        let (mut source, mut target) = (server(), server());
        target.system_identifier = "2".into();
        change(&mut source, &mut target);
        let mut out = Findings::default();
        identity(&mut out, (&from, &source), (&to, &target), "app", target_name);
        out
    };
    assert_eq!(judged(|_, _| (), "app"), Findings::default());
    assert_eq!(judged(|s, t| t.system_identifier.clone_from(&s.system_identifier), "app_new"), Findings::default());
    let same = judged(|s, t| t.system_identifier.clone_from(&s.system_identifier), "app");
    blocked(&same, reasons::SAME_DATABASE, "spec.target", &["\"app\""]);
    blocked(
        &judged(|s, _| s.in_recovery = true, "app"),
        reasons::SERVER_IS_STANDBY,
        "spec.source.postgres.exec",
        &["old/postgres-0"],
    );
    blocked(
        &judged(|_, t| t.in_recovery = true, "app"),
        reasons::SERVER_IS_STANDBY,
        "spec.target.postgres.exec",
        &["new/postgres-0"],
    );
}

#[test]
fn names_that_are_taken_are_refused() {
    let mut out = Findings::default();
    names(&mut out, &place(Side::Target), &[]);
    assert_eq!(out, Findings::default());
    names(&mut out, &place(Side::Target), &["app_0a1b2c3d4e5fs"]);
    blocked(&out, reasons::NAME_TAKEN, "spec.databases[0]", &["app_0a1b2c3d4e5fs", "new/postgres-0 of this cluster"]);
}
