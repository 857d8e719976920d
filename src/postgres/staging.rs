//! Databases of our own making: created, dressed like the source, dropped.
//!
//! Here: creating a staging database, dropping any derived one, carrying what a dump leaves behind because it belongs to
//! the database as a whole. Not here: filling it (`mover`), giving it its final name (`publish`).

use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::admin::AdminSessions;
use super::carrier::{Session, SqlError, SqlErrorKind, quote_identifier, quote_literal};
use super::catalog::{self, Database, DatabaseSettings};
use super::completion;
use super::swap::{Patience, Row, Rows, SwapError, allow_connections, expel, insist, look};

/// Creates the database `name` from `template0` for `owner`, with the encoding and locale of `like`, and returns its
/// OID. One that exists with this name, owner's or not, is returned as it is: the name is derived from a UID.
///
/// Nobody but the owner and administrators may connect to it until [`carry`] has set its privileges.
///
/// Errors: `Sql` when the server has no such locale or the role may not do it (the server's words say which).
pub async fn create_staging(
    admins: &mut AdminSessions,
    name: &str,
    owner: &str,
    like: &Database,
    deadline: Duration,
) -> Result<u32, SwapError> {
    let done = |rows: &Rows| rows.by_name(name).is_some_and(|row| row.connection_limit != -2);
    let found = look(admins, &[], &[name]).await?;
    if let Some(row) = found.by_name(name).filter(|row| row.connection_limit == -2) {
        drop_database(admins, name, row.oid, deadline).await?;
    }
    let what = format!("creating database {name:?}");
    insist(admins, &create_statement(name, owner, like), &what, &[], &[name], deadline, done).await?;
    admins.execute(&format!("REVOKE ALL ON DATABASE {} FROM PUBLIC", quote_identifier(name))).await?;
    let rows = look(admins, &[], &[name]).await?;
    let row = rows.by_name(name);
    row.map(|row| row.oid).ok_or_else(|| SwapError::Unexpected(format!("database {name:?} vanished")))
}

fn create_statement(name: &str, owner: &str, like: &Database) -> String {
    let mut statement = format!(
        "CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}",
        quote_identifier(name),
        quote_identifier(owner),
        quote_literal(&like.encoding),
        quote_literal(&like.collate),
        quote_literal(&like.ctype)
    );
    let locale = quote_literal(like.locale.as_deref().unwrap_or_default());
    // Writing to a String cannot fail.
    let _ = match like.locale_provider.as_str() {
        "icu" => write!(statement, " LOCALE_PROVIDER icu ICU_LOCALE {locale}"),
        "builtin" => write!(statement, " LOCALE_PROVIDER builtin BUILTIN_LOCALE {locale}"),
        _ => write!(statement, " LOCALE_PROVIDER libc"),
    };
    if let Some(rules) = &like.icu_rules {
        let _ = write!(statement, " ICU_RULES {}", quote_literal(rules));
    }
    statement
}

/// Drops the database with this name, if it still has this OID. Safe to repeat; done when nothing has the OID any more.
///
/// Another database under that name is left alone, and the one with the OID under another name is an error
/// (`Unexpected`). Sessions in it are ended. It may take long while any session of the server does not react; nothing
/// should wait for it.
pub async fn drop_database(admins: &mut AdminSessions, name: &str, oid: u32, deadline: Duration) -> Result<(), SwapError> {
    let mut patience = Patience::new(deadline);
    loop {
        let rows = look(admins, &[oid], &[]).await?;
        let Some(row) = rows.by_oid(oid) else {
            return Ok(());
        };
        if row.name != name {
            return Err(SwapError::Unexpected(format!("database {name:?} (OID {oid}) is called {:?} now", row.name)));
        }
        if patience.is_over() {
            return Err(patience.blocked(admins, &format!("dropping database {name:?}"), &[oid]).await);
        }
        if let Err(error) = drop_once(admins, row, &mut patience).await {
            patience.absorb(error).await?;
        }
    }
}

async fn drop_once(admins: &mut AdminSessions, row: &Row, patience: &mut Patience) -> Result<(), SqlError> {
    let name = quote_identifier(&row.name);
    // An interrupted drop leaves -2 behind: such a database cannot be altered, only dropped again.
    if row.connection_limit != -2 {
        if row.is_template {
            admins.execute(&format!("ALTER DATABASE {name} IS_TEMPLATE false")).await?;
        }
        if row.allow_connections {
            admins.execute(&allow_connections(&row.name, false)).await?;
        }
        if !expel(admins, row.oid, patience).await? {
            return Ok(());
        }
    }
    admins.execute(&format!("DROP DATABASE {name}")).await
}

/// How long giving space back may take: large tables are unlinked at once, and nobody else is in the database.
const EMPTYING: Duration = Duration::from_mins(1);

/// Drops the largest tables of the database of this session, one of our own making that is about to be dropped: their space is
/// free when this returns. One that has another OID is left alone, and an error; it cannot change its name under the session.
///
/// `DROP DATABASE` begins with a checkpoint (`dropdb`, src/backend/commands/dbcommands.c), and a checkpoint without room for
/// its own small files ends in a PANIC: a server whose volume the copy has filled would crash, and could not start again.
/// Tables of extensions stay. An error leaves the database as it was.
pub async fn empty(session: &mut dyn Session, oid: u32) -> Result<(), SqlError> {
    session.execute(&EMPTY.replace("$oid", &oid.to_string()), EMPTYING).await
}

const EMPTY: &str = r"
DO $pgm$
DECLARE
  big record;
BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database() AND d.oid = $oid) THEN
    RAISE EXCEPTION 'this is not the database with OID $oid';
  END IF;
  FOR big IN
    SELECT c.oid, c.relkind FROM pg_catalog.pg_class AS c
    WHERE c.relkind IN ('r', 'm') AND c.oid >= 16384 AND NOT EXISTS
      (SELECT FROM pg_catalog.pg_depend AS d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'e')
    ORDER BY pg_catalog.pg_total_relation_size(c.oid) DESC LIMIT 50
  LOOP
    -- One that fell with another is gone.
    CONTINUE WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = big.oid);
    EXECUTE pg_catalog.format('DROP %s %s CASCADE', CASE big.relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END, big.oid::pg_catalog.regclass);
  END LOOP;
END
$pgm$";

/// What the database with this OID is called; None when nothing has the OID.
pub async fn name_of(admins: &mut AdminSessions, oid: u32) -> Result<Option<String>, SqlError> {
    Ok(look(admins, &[oid], &[]).await?.by_oid(oid).map(|row| row.name.clone()))
}

/// Something of the source database that its copy does not have, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotCarried {
    /// What: a setting, a privilege, for people.
    pub what: String,
    /// Why it stayed behind.
    pub why: String,
}

/// Gives `staging` (a name on the target) what a dump without `-C` leaves behind: comment, connection limit, settings of
/// the database, and what PUBLIC may do with it. Returns what could not be carried.
///
/// Settings and privileges of named roles stay behind, but for settings of the source's owner, which become those of
/// `owner`. To be called when nothing is to be restored any more, since a setting (`statement_timeout`) would bind the
/// restore as well. Safe to repeat.
pub async fn carry(
    admins: &mut AdminSessions,
    source: &Database,
    settings: &DatabaseSettings,
    staging: &str,
    owner: &str,
) -> Result<Vec<NotCarried>, SwapError> {
    let mut left = Vec::new();
    let name = quote_identifier(staging);
    let comment = source.comment.as_deref().map_or_else(|| "NULL".to_owned(), quote_literal);
    admins.execute(&format!("COMMENT ON DATABASE {name} IS {comment}")).await?;
    if source.connection_limit >= -1 {
        admins.execute(&format!("ALTER DATABASE {name} CONNECTION LIMIT {}", source.connection_limit)).await?;
    }
    let own = |setting: &str| setting.starts_with(completion::PREFIX);
    for item in settings.settings.iter().filter(|item| !own(&item.setting)) {
        let target = match &item.role {
            None => format!("ALTER DATABASE {name}"),
            Some(role) if *role == source.owner => {
                format!("ALTER ROLE {} IN DATABASE {name}", quote_identifier(owner))
            }
            Some(role) => {
                left.push(NotCarried {
                    what: format!("setting {:?} of role {role:?}", item.setting),
                    why: "it belongs to a role that is not carried".into(),
                });
                continue;
            }
        };
        let Some(assignment) = assignment(&item.setting) else {
            left.push(NotCarried {
                what: format!("setting {:?}", item.setting),
                why: "it changes the identity of sessions".into(),
            });
            continue;
        };
        if let Err(error) = admins.execute(&format!("{target} SET {assignment}")).await {
            if error.kind != SqlErrorKind::Statement {
                return Err(error.into());
            }
            left.push(NotCarried { what: format!("setting {:?}", item.setting), why: error.to_string() });
        }
    }
    for privilege in ["CONNECT", "TEMPORARY", "CREATE"] {
        let public = settings.acl.iter().any(|item| item.grantee.is_none() && item.privilege == privilege);
        let (verb, to) = if public { ("GRANT", "TO") } else { ("REVOKE", "FROM") };
        admins.execute(&format!("{verb} {privilege} ON DATABASE {name} {to} PUBLIC")).await?;
    }
    for item in &settings.acl {
        if let Some(grantee) = item.grantee.as_ref().filter(|grantee| **grantee != source.owner) {
            left.push(NotCarried {
                what: format!("privilege {} of role {grantee:?} on the database", item.privilege),
                why: "grants to roles are dropped when everything belongs to one owner".into(),
            });
        }
    }
    Ok(left)
}

/// Parameters whose value is a list of names, each quoted on its own, as `pg_dumpall` does.
const NAME_LISTS: &[&str] = &[
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// `name = value` for `ALTER DATABASE ... SET`, from `name=value` of the catalog. None for what must not be carried.
fn assignment(setting: &str) -> Option<String> {
    let (name, value) = setting.split_once('=')?;
    if ["role", "session_authorization"].iter().any(|other| name.eq_ignore_ascii_case(other)) {
        return None;
    }
    // A custom parameter is called `prefix.name`, each part an identifier.
    let quoted: Vec<String> = name.split('.').map(quote_identifier).collect();
    let value = if NAME_LISTS.iter().any(|list| name.eq_ignore_ascii_case(list)) {
        let parts = split_names(value)?;
        if parts.is_empty() {
            "''".to_owned()
        } else {
            parts.iter().map(|part| quote_literal(part)).collect::<Vec<_>>().join(", ")
        }
    } else {
        quote_literal(value)
    };
    Some(format!("{} = {value}", quoted.join(".")))
}

/// Splits `a, "b c", "$user"` into its names. None when quotes do not pair.
fn split_names(list: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut rest = list.trim();
    while !rest.is_empty() {
        let mut name = String::new();
        if let Some(mut quoted) = rest.strip_prefix('"') {
            loop {
                let (part, after) = quoted.split_once('"')?;
                name.push_str(part);
                if let Some(again) = after.strip_prefix('"') {
                    name.push('"');
                    quoted = again;
                } else {
                    rest = after.trim_start();
                    break;
                }
            }
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            let (part, after) = rest.split_at(end);
            name.push_str(part.trim_end());
            rest = after;
        }
        names.push(name);
        match rest.strip_prefix(',') {
            Some(after) => rest = after.trim_start(),
            None if rest.is_empty() => {}
            None => return None,
        }
    }
    Some(names)
}

/// Reads what [`create_staging`] and [`carry`] take from the source, by the name that the database has at the moment.
pub async fn dress_of(admins: &mut AdminSessions, database: &str) -> Result<(Database, DatabaseSettings), SwapError> {
    let session = admins.session().await?;
    let found = catalog::database(session, database).await?;
    let found = found.ok_or_else(|| SwapError::Unexpected(format!("database {database:?} does not exist")))?;
    let settings = catalog::database_settings(session, found.oid).await?;
    Ok((found, settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_quoted_as_pg_dumpall_does() {
        assert_eq!(assignment("work_mem=5MB").unwrap(), r#""work_mem" = '5MB'"#);
        assert_eq!(
            assignment(r#"search_path="$user", public, "odd ""one""""#).unwrap(),
            r#""search_path" = '$user', 'public', 'odd "one"'"#
        );
        assert_eq!(assignment("search_path=").unwrap(), r#""search_path" = ''"#);
        assert_eq!(assignment(r#"search_path="""#).unwrap(), r#""search_path" = ''"#);
        assert_eq!(assignment("app.tenant=a'b=c").unwrap(), r#""app"."tenant" = 'a''b=c'"#);
        assert_eq!(assignment("role=boss"), None);
        assert_eq!(split_names(r#""open"#), None);
    }

    #[test]
    fn a_staging_database_is_like_the_source() {
        let mut like = Database {
            oid: 1,
            name: "app".into(),
            allow_connections: true,
            is_template: false,
            connection_limit: -1,
            owner: "o".into(),
            encoding: "UTF8".into(),
            collate: "C".into(),
            ctype: "en_US.UTF-8".into(),
            locale_provider: "libc".into(),
            locale: None,
            icu_rules: None,
            collation_version: None,
            actual_collation_version: None,
            tablespace: "pg_default".into(),
            comment: None,
            size: None,
        };
        let begin = r#"CREATE DATABASE "s" OWNER "me" TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'en_US.UTF-8'"#;
        assert_eq!(create_statement("s", "me", &like), format!("{begin} LOCALE_PROVIDER libc"));
        like.locale_provider = "icu".into();
        like.locale = Some("de-AT".into());
        assert_eq!(create_statement("s", "me", &like), format!("{begin} LOCALE_PROVIDER icu ICU_LOCALE 'de-AT'"));
    }
}
