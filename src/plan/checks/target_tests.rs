//! Each check of the target against facts made by hand.

use super::super::fixtures::{blocked, database, inventory, place, role, server, warned};
use super::*;
use crate::api::Side;

fn there() -> Place {
    place(Side::Target)
}

#[test]
fn the_owner_must_exist_and_log_in() {
    let judged = |change: fn(&mut Server, &mut Option<Role>)| {
        let (mut server, mut found) = (server(), Some(role("app_owner")));
        change(&mut server, &mut found);
        let mut out = Findings::default();
        owner(&mut out, &there(), &server, "app_owner", found.as_ref());
        out
    };
    let path = "spec.databases[0].owner.name";
    assert_eq!(judged(|_, _| ()), Findings::default());
    blocked(
        &judged(|_, r| *r = None),
        reasons::OWNER_NOT_READY,
        path,
        &["\"app_owner\" does not exist", "new/postgres-0 of this cluster"],
    );
    blocked(&judged(|_, r| r.as_mut().unwrap().login = false), reasons::OWNER_NOT_READY, path, &["may not log in"]);
    let unreachable = judged(|s, r| {
        s.superuser = false;
        r.as_mut().unwrap().reachable = false;
    });
    blocked(&unreachable, reasons::OWNER_NOT_READY, path, &["GRANT \"app_owner\" TO \"postgres\""]);
    assert_eq!(
        judged(|_, r| r.as_mut().unwrap().reachable = false),
        Findings::default(),
        "a superuser may make anyone the owner"
    );
    let root = judged(|_, r| r.as_mut().unwrap().superuser = true);
    assert!(root.blockers.is_empty());
    warned(&root, reasons::OWNER_NOT_READY, &["superuser"]);
    let powerless = judged(|s, _| {
        s.superuser = false;
        s.createdb = false;
    });
    blocked(&powerless, reasons::ADMIN_LOGIN_FAILED, "spec.target.postgres.exec.adminUser", &["CREATEDB"]);
}

#[test]
fn a_target_that_holds_tables_is_refused_or_set_aside() {
    let judged = |policy: ExistingTarget, tables: u64, change: fn(&mut Database)| {
        let mut found = Existing { database: database("app"), inventory: Some(inventory(tables)) };
        change(&mut found.database);
        let mut out = Findings::default();
        existing(&mut out, &there(), policy, &found, "app_a", &database("app"));
        out
    };
    let path = "spec.databases[0].existingTarget";
    let refused = judged(ExistingTarget::Refuse, 4, |_| ());
    blocked(&refused, reasons::TARGET_NOT_EMPTY, path, &["\"app\"", "4 tables", "SetAside", "new/postgres-0 of this cluster"]);
    let mut mixed = Existing { database: database("app"), inventory: Some(inventory(4)) };
    let counts = &mut mixed.inventory.as_mut().unwrap().counts;
    (counts.partitioned_tables, counts.foreign_tables) = (20, 300);
    let mut out = Findings::default();
    existing(&mut out, &there(), ExistingTarget::Refuse, &mixed, "app_a", &database("app"));
    blocked(&out, reasons::TARGET_NOT_EMPTY, path, &["holds 324 tables"]);
    for (policy, tables) in [(ExistingTarget::Refuse, 0), (ExistingTarget::SetAside, 4)] {
        let kept = judged(policy, tables, |_| ());
        assert!(kept.blockers.is_empty(), "{kept:?}");
        warned(&kept, reasons::TARGET_NOT_EMPTY, &["\"app_a\""]);
    }
    let encoding = judged(ExistingTarget::SetAside, 4, |d| d.encoding = "LATIN1".into());
    warned(&encoding, reasons::ENCODING_MISMATCH, &["LATIN1", "UTF8"]);
    let unmovable: [fn(&mut Database); 3] =
        [|d| d.is_template = true, |d| d.allow_connections = false, |d| d.name = "postgres".into()];
    for change in unmovable {
        let out = judged(ExistingTarget::SetAside, 0, change);
        blocked(&out, reasons::NAME_TAKEN, "spec.databases[0].targetName", &["cannot be set aside"]);
    }
}

#[test]
fn the_locale_must_be_known() {
    let judged = |collate: &str, libc: Option<&[&str]>, version: Option<&str>| {
        let known = |name: &str, version: Option<&str>| Database {
            collate: collate.into(),
            ctype: collate.into(),
            actual_collation_version: version.map(Into::into),
            ..database(name)
        };
        let libc = libc.map(|all| all.iter().map(|&one| one.to_owned()).collect());
        let mut out = Findings::default();
        let target = Locales { libc, databases: vec![known("postgres", version)] };
        locale(&mut out, &there(), &known("app", Some("2.36")), &target);
        out
    };
    for collate in ["C", "POSIX", "en_US.UTF-8", "C.UTF-8"] {
        assert_eq!(judged(collate, Some(&["C.utf8", "en_US.utf8"]), Some("2.36")), Findings::default(), "{collate}");
    }
    let missing = judged("de_DE.UTF-8", Some(&["C", "en_US.utf8"]), None);
    blocked(&missing, reasons::LOCALE_MISMATCH, "spec.target.postgres", &["de_DE.UTF-8", "new/postgres-0 of this cluster"]);
    assert_eq!(judged("de_DE.UTF-8", None, None), Findings::default(), "a system that cannot tell takes any");
    warned(&judged("en_US.UTF-8", Some(&["en_US.utf8"]), Some("2.31")), reasons::COLLATION_CHANGED, &["2.36", "2.31"]);
}

#[test]
fn room_is_needed_and_a_margin_sensible() {
    let judged = |needed, free| {
        let mut out = Findings::default();
        room(&mut out, &there(), needed, free);
        out
    };
    assert_eq!(judged(1000, 1300), Findings::default());
    let tight = judged(1000, 1299);
    assert!(tight.blockers.is_empty());
    warned(&tight, reasons::DISK_TOO_SMALL, &["new/postgres-0 of this cluster"]);
    blocked(&judged(1000, 999), reasons::DISK_TOO_SMALL, "spec.target.postgres", &["1000 B", "999 B"]);
    assert!(!judged(u64::MAX, u64::MAX).blocked_by(reasons::DISK_TOO_SMALL));
}

#[test]
fn a_login_into_a_name_that_does_not_exist_shows_what_stands_before_the_name() {
    let passed = "connection to server on socket \"/x\" failed: FATAL:  database \"app_1s\" does not exist";
    assert_eq!(entry("app_1s", passed), Ok(()));
    for refused in [
        "FATAL:  no pg_hba.conf entry for host \"[local]\", user \"o\", database \"app_1s\", no encryption",
        "FATAL:  password authentication failed for user \"o\"",
        "FATAL:  Peer authentication failed for user \"o\"",
    ] {
        assert_eq!(entry("app_1s", refused), Err(refused.to_owned()));
    }
    let mut out = Findings::default();
    local_login(&mut out, &there(), "o", &Ok(()));
    admin_entry(&mut out, &there(), "postgres", "app_1s", &Ok(()));
    assert_eq!(out, Findings::default());
    local_login(&mut out, &there(), "o", &Err("Peer authentication failed".into()));
    blocked(
        &out,
        reasons::OWNER_NOT_READY,
        "spec.databases[0].owner.passwordSecretRef",
        &["\"o\"", "Peer authentication failed"],
    );
    admin_entry(&mut out, &there(), "postgres", "app_1s", &Err("no pg_hba.conf entry".into()));
    blocked(&out, reasons::ADMIN_LOGIN_FAILED, "spec.target.postgres.exec.adminUser", &["\"app_1s\"", "no pg_hba.conf entry"]);
}

#[test]
fn the_endpoint_must_lead_to_the_target() {
    let address = Endpoint { host: "db".into(), port: 6432 };
    let judged = |login: &Login, inside: bool| {
        let mut out = Findings::default();
        endpoint(&mut out, &there(), &address, "o", "1", login, inside);
        out
    };
    let reached = |id: &str, in_recovery| Login::Reached { system_identifier: id.into(), in_recovery };
    let path = "spec.target.endpoint";
    assert_eq!(judged(&reached("1", false), true), Findings::default());
    blocked(
        &judged(&reached("2", false), true),
        reasons::ENDPOINT_MISMATCH,
        path,
        &["db:6432", "another server", "new/postgres-0 of this cluster"],
    );
    blocked(&judged(&reached("1", true), true), reasons::ENDPOINT_MISMATCH, path, &["standby"]);
    let refused = Login::Refused("FATAL: password authentication failed".into());
    blocked(&judged(&refused, true), reasons::ENDPOINT_MISMATCH, path, &["db:6432", "password authentication failed"]);
    let owner_path = "spec.databases[0].owner.passwordSecretRef";
    blocked(&judged(&refused, false), reasons::OWNER_NOT_READY, owner_path, &["\"o\"", "password authentication failed"]);
    blocked(&judged(&Login::Unreachable("timeout".into()), true), reasons::ENDPOINT_MISMATCH, path, &["db:6432", "timeout"]);
}
