//! Each check of the content against facts made by hand.

use super::super::fixtures::{blocked, database, inventory, place, server, warned};
use super::*;
use crate::api::Side;
use crate::postgres::catalog::{AclItem, ExtensionVersion, RoleSetting};

fn nothing<T>() -> Capped<T> {
    Capped { total: 0, items: vec![] }
}

fn judged(renamed: bool, change: impl FnOnce(&mut Content)) -> Findings {
    let mut facts = Content {
        database: database("app"),
        server: server(),
        inventory: inventory(3),
        event_triggers: vec![],
        name_uses: nothing(),
        path_uses: nothing(),
        role_uses: vec![],
        public_rights: PublicRights { revoked: nothing(), granted: nothing() },
        settings: DatabaseSettings { acl_text: None, acl: vec![], settings: vec![] },
    };
    change(&mut facts);
    let mut out = Findings::default();
    content(&mut out, &place(Side::Source), &facts, "app_owner", renamed);
    out
}

fn name_use(kind: &str) -> Capped<DatabaseNameUse> {
    let one = DatabaseNameUse { kind: kind.into(), object: "public.t".into(), expression: "current_database() = 'app'".into() };
    Capped { total: 1, items: vec![one] }
}

fn relation() -> Capped<RelationName> {
    Capped { total: 1, items: vec![RelationName { schema: "s".into(), name: "r".into() }] }
}

fn trigger(event: &str, enabled: bool) -> EventTrigger {
    EventTrigger { name: "et".into(), event: event.into(), enabled, function: "public.f".into(), extension: false }
}

#[test]
fn ordinary_content_is_no_finding() {
    assert_eq!(judged(false, |_| ()), Findings::default());
}

#[test]
fn expressions_that_ask_for_the_name_stop_the_migration() {
    for kind in ["constraint", "generated column", "materialized view", "index", "function"] {
        let out = judged(false, |f| f.name_uses = name_use(kind));
        blocked(
            &out,
            reasons::DATABASE_NAME_IN_EXPRESSION,
            "spec.databases[0]",
            &[kind, "public.t", "old/postgres-0 of the old cluster"],
        );
    }
    assert_eq!(judged(false, |f| f.name_uses = name_use("policy")), Findings::default());
    let renamed = judged(true, |f| f.name_uses = name_use("policy"));
    assert!(renamed.blockers.is_empty());
    warned(&renamed, reasons::DATABASE_NAME_IN_EXPRESSION, &["policy public.t"]);
}

#[test]
fn login_triggers_bind_an_admin_that_is_no_superuser() {
    let out = judged(false, |f| {
        f.event_triggers.push(trigger("login", true));
        f.server.superuser = false;
    });
    blocked(&out, reasons::FENCE_NOT_POSSIBLE, "spec.databases[0]", &["\"et\""]);
    for (event, enabled, superuser) in [("login", true, true), ("login", false, false), ("sql_drop", true, false)] {
        let out = judged(false, |f| {
            f.event_triggers.push(trigger(event, enabled));
            f.server.superuser = superuser;
        });
        assert!(out.blockers.is_empty(), "{out:?}");
        warned(&out, reasons::NOT_CARRIED_OVER, &["event triggers", "\"et\""]);
    }
}

#[test]
fn what_is_not_carried_or_changes_is_said() {
    type Change = fn(&mut Content);
    let cases: [(Change, &str, &str); 12] = [
        (|f| f.inventory.invalid_indexes = relation(), reasons::NOT_CARRIED_OVER, "invalid indexes"),
        (|f| f.inventory.foreign_tables = relation(), reasons::NOT_CARRIED_OVER, "foreign tables"),
        (|f| f.inventory.tablespace_tables = relation(), reasons::NOT_CARRIED_OVER, "tablespaces"),
        (|f| f.database.encoding = "SQL_ASCII".into(), reasons::ENCODING_MISMATCH, "SQL_ASCII"),
        (
            |f| {
                f.database.collation_version = Some("2.31".into());
                f.database.actual_collation_version = Some("2.36".into());
            },
            reasons::COLLATION_CHANGED,
            "2.36",
        ),
        (
            |f| {
                let one = SearchPathUse { kind: "index".into(), object: "s.i".into(), function: "s.f(integer)".into() };
                f.path_uses = Capped { total: 1, items: vec![one] };
            },
            reasons::SEARCH_PATH_DEPENDENCE,
            "s.f(integer)",
        ),
        (
            |f| f.role_uses.push(RoleUse { name: "other".into(), owns: 2, granted: 0 }),
            reasons::OWNERSHIP_CHANGES,
            "belong to \"other\"",
        ),
        (|f| f.role_uses.push(RoleUse { name: "reader".into(), owns: 0, granted: 1 }), reasons::OWNERSHIP_CHANGES, "\"reader\""),
        (
            |f| f.public_rights.revoked = Capped { total: 1, items: vec!["EXECUTE on function app.pay(integer)".into()] },
            reasons::OWNERSHIP_CHANGES,
            "revoke them again on the target. They are \"EXECUTE on function app.pay(integer)\"",
        ),
        (
            |f| f.public_rights.granted = Capped { total: 30, items: vec!["SELECT on table app.prices".into(); 20] },
            reasons::OWNERSHIP_CHANGES,
            "and 22 more",
        ),
        (
            |f| {
                let setting = "work_mem=1GB".into();
                f.settings.settings.push(RoleSetting { role: Some("etl".into()), setting });
            },
            reasons::NOT_CARRIED_OVER,
            "work_mem=1GB",
        ),
        (|f| f.inventory.counts.tables = 6401, reasons::LOCK_TABLE_SMALL, "6401 tables"),
    ];
    for (change, reason, word) in cases {
        let out = judged(false, change);
        assert_eq!((out.blockers.len(), out.warnings.len()), (0, 1), "{word}: {out:?}");
        warned(&out, reason, &[word, "of the old cluster"]);
    }
}

#[test]
fn more_tables_than_a_server_can_lock_stop_a_migration_before_anything_is_still() {
    let out = judged(false, |f| f.inventory.counts.tables = 13_001);
    assert_eq!((out.blockers.len(), out.warnings.len()), (1, 0), "{out:?}");
    blocked(&out, reasons::LOCK_TABLE_SMALL, PATH, &["13001 tables", "of the old cluster", "max_locks_per_transaction"]);
    let found = |tables: u64| {
        let out = judged(false, |f| f.inventory.counts.tables = tables);
        (out.blockers.len(), out.warnings.len())
    };
    assert_eq!([6400, 6401, 13_000, 13_001].map(found), [(0, 0), (0, 1), (0, 1), (1, 0)]);
}

#[test]
fn what_the_owner_has_is_no_finding() {
    let out = judged(false, |f| {
        f.role_uses.push(RoleUse { name: "app_owner".into(), owns: 2, granted: 2 });
        let item = |grantee: Option<&str>| AclItem {
            grantor: "src_owner".into(),
            grantee: grantee.map(Into::into),
            privilege: "CONNECT".into(),
            grantable: false,
        };
        f.settings.acl = vec![item(None), item(Some("src_owner"))];
        f.settings.settings.push(RoleSetting { role: None, setting: "work_mem=1GB".into() });
    });
    assert_eq!(out, Findings::default());
}

#[test]
fn an_archive_must_fit_into_one_object() {
    let mut out = Findings::default();
    archive_size(&mut out, &place(Side::Source), "app", 100, 100);
    assert_eq!(out, Findings::default());
    archive_size(&mut out, &place(Side::Source), "app", 101, 100);
    blocked(&out, reasons::ARCHIVE_TOO_LARGE, "spec.databases[0]", &["101 B", "100 B", "old/postgres-0 of the old cluster"]);
    let large = judged(false, |f| {
        f.inventory.table_bytes = limits::max_archive_bytes();
        f.inventory.counts.large_object_bytes = 1;
    });
    assert!(large.blocked_by(reasons::ARCHIVE_TOO_LARGE));
}

fn installed(version: &str) -> InstalledExtension {
    InstalledExtension {
        name: "vector".into(),
        version: version.into(),
        schema: "public".into(),
        schema_oid: 2200,
        owns_schema: false,
        owner: "postgres".into(),
        configuration_tables: 0,
        trusted: false,
        requires: vec![],
    }
}

fn offer(default: &str, versions: &[&str], superuser: bool, trusted: bool) -> AvailableExtension {
    let versions = versions.iter().map(|&version| ExtensionVersion { version: version.into(), superuser, trusted, schema: None });
    AvailableExtension { name: "vector".into(), default_version: default.into(), versions: versions.collect() }
}

#[test]
fn extensions_must_be_on_offer_in_that_version_or_a_newer_one() {
    let judged = |used: &InstalledExtension, offered: &[AvailableExtension], superuser: bool| {
        let mut out = Findings::default();
        let server = Server { superuser, ..server() };
        extensions(&mut out, &place(Side::Target), &server, std::slice::from_ref(used), offered);
        out
    };
    let plain = InstalledExtension { name: "plpgsql".into(), ..installed("1.0") };
    assert_eq!(judged(&plain, &[], true), Findings::default());
    assert_eq!(judged(&installed("0.8.0"), &[offer("0.8.0", &["0.8.0"], true, false)], true), Findings::default());

    let path = "spec.target.postgres";
    blocked(
        &judged(&installed("0.8.0"), &[], true),
        reasons::EXTENSION_UNAVAILABLE,
        path,
        &["\"vector\" 0.8.0", "new/postgres-0 of this cluster"],
    );
    let older = judged(&installed("0.10.0"), &[offer("0.8.0", &["0.7.0", "0.8.0"], true, false)], true);
    blocked(&older, reasons::EXTENSION_UNAVAILABLE, path, &["0.10.0", "\"0.8.0\""]);
    let newer = judged(&installed("0.7.0"), &[offer("0.8.0", &["0.8.0"], true, false)], true);
    assert!(newer.blockers.is_empty(), "{newer:?}");
    warned(&newer, reasons::EXTENSION_CHANGES, &["0.7.0", "0.8.0"]);

    let untrusted = judged(&installed("0.8.0"), &[offer("0.8.0", &["0.8.0"], true, false)], false);
    blocked(&untrusted, reasons::EXTENSION_UNAVAILABLE, "spec.target.postgres.exec.adminUser", &["superusers only"]);
    assert_eq!(judged(&installed("0.8.0"), &[offer("0.8.0", &["0.8.0"], true, true)], false), Findings::default());

    let rows = InstalledExtension { configuration_tables: 1, ..installed("0.8.0") };
    warned(&judged(&rows, &[offer("0.8.0", &["0.8.0"], true, false)], true), reasons::EXTENSION_CHANGES, &["rows"]);
}

#[test]
fn versions_are_compared_as_numbers() {
    assert!(older("0.9.1", "0.10"));
    assert!(!older("0.10", "0.9.1"));
    assert!(!older("1.0", "1.0"));
    assert!(!older("next", "1.0"), "what cannot be compared is not called older");
}
