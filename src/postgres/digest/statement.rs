//! The statement that digests one table, and running it.

use std::borrow::Cow;
use std::time::Duration;

use super::{Hash, Method, Recipe, Table, TableDigest};
use crate::postgres::carrier::{Question, Session, SqlError, SqlErrorKind, quote_identifier, quote_literal};
use crate::postgres::catalog::ask_within;

/// Two hashes of the text `r` of a subquery, as `h1` and `h2`: expressions of type int8 over `r`.
pub(super) fn hashes(hash: Hash) -> [&'static str; 2] {
    match hash {
        Hash::Seeded => [
            r#"pg_catalog.hashtextextended(q.r COLLATE pg_catalog."C", 1)"#,
            r#"pg_catalog.hashtextextended(q.r COLLATE pg_catalog."C", 2)"#,
        ],
        Hash::Sha256 => {
            ["('x' || pg_catalog.substr(q.r, 1, 16))::bit(64)::int8", "('x' || pg_catalog.substr(q.r, 17, 16))::bit(64)::int8"]
        }
    }
}

/// The text that is hashed, made of an expression of type text.
pub(super) fn text(recipe: Recipe, expression: &str) -> String {
    match recipe.hash {
        Hash::Seeded if recipe.to_utf8 => {
            format!("pg_catalog.encode(pg_catalog.convert_to({expression}, 'UTF8'), 'hex')")
        }
        Hash::Seeded => expression.to_owned(),
        Hash::Sha256 => sha256(expression),
    }
}

fn sha256(expression: &str) -> String {
    format!("pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to({expression}, 'UTF8')), 'hex')")
}

/// The statement that answers one JSON object, a [`TableDigest`], for one table.
///
/// `FROM ONLY`: the rows of partitions and of inheriting tables are those tables' own. `OFFSET 0` keeps the text from
/// being made twice.
pub fn table_statement(table: &Table, recipe: Recipe, method: Method) -> String {
    let (content, hash) = match method {
        Method::Row => (text(recipe, &format!("pg_catalog.record_out({})::pg_catalog.text", row(table))), recipe.hash),
        // Sums of cryptographic hashes, whatever the recipe: their short text is what makes such rows bearable.
        Method::Columns => (columns_text(table), Hash::Sha256),
    };
    let [h1, h2] = hashes(hash);
    let method_word = match method {
        Method::Row => "row",
        Method::Columns => "columns",
    };
    format!(
        "SELECT pg_catalog.jsonb_build_object('schema', {schema_text}::text, 'table', {table_text}::text, \
         'method', '{method_word}', 'extension', {extension}::text, 'rows', pg_catalog.count(*), \
         'd1', coalesce(pg_catalog.sum({h1}), 0)::text, 'd2', coalesce(pg_catalog.sum({h2}), 0)::text) \
         FROM (SELECT {content} AS r FROM ONLY {schema}.{name} AS t {condition} OFFSET 0) AS q",
        schema_text = quote_literal(&table.name.schema),
        table_text = quote_literal(&table.name.name),
        extension = table.extension.as_deref().map_or_else(|| "NULL".to_owned(), quote_literal),
        schema = quote_identifier(&table.name.schema),
        name = quote_identifier(&table.name.name),
        condition = table.condition.as_deref().unwrap_or_default(),
    )
}

/// The row as a value. A table that inherits has its columns in an order that a dump does not keep: there they are taken
/// by name.
fn row(table: &Table) -> String {
    if table.inherits {
        let columns: Vec<String> = sorted(table).map(|column| format!("t.{}", quote_identifier(column))).collect();
        format!("ROW({})", columns.join(", "))
    } else {
        "t.*".to_owned()
    }
}

fn sorted(table: &Table) -> impl Iterator<Item = &String> {
    let mut columns: Vec<&String> = table.columns.iter().collect();
    columns.sort();
    columns.into_iter()
}

/// The hashes of all columns of a row by name, joined. `num_nulls` tells a null from a row of nulls, which `IS NULL` does not.
fn columns_text(table: &Table) -> String {
    let parts: Vec<String> = sorted(table)
        .map(|column| {
            let column = format!("t.{}", quote_identifier(column));
            let hash = sha256(&format!("pg_catalog.format('%s', {column})"));
            format!("CASE WHEN pg_catalog.num_nulls({column}) = 1 THEN '-' ELSE {hash} END")
        })
        .collect();
    sha256(&format!("pg_catalog.array_to_string(ARRAY[{}]::pg_catalog.text[], ',')", parts.join(", ")))
}

/// Digests one table within `deadline`; by `method`, or, without one, by row, and by columns when a row's text is too
/// large. When the sides then differ in method, the other side is asked again with the method of this one.
pub async fn digest_table(
    session: &mut dyn Session,
    table: &Table,
    recipe: Recipe,
    method: Option<Method>,
    deadline: Duration,
) -> Result<TableDigest, SqlError> {
    let first = run(session, table, recipe, method.unwrap_or(Method::Row), deadline).await;
    match first {
        Err(error) if method.is_none() && is_too_large(&error) => run(session, table, recipe, Method::Columns, deadline).await,
        other => other,
    }
}

async fn run(
    session: &mut dyn Session,
    table: &Table,
    recipe: Recipe,
    method: Method,
    deadline: Duration,
) -> Result<TableDigest, SqlError> {
    let sql = Cow::Owned(table_statement(table, recipe, method));
    ask_within(session, &Question { name: "table digest", sql, parameters: Vec::new() }, deadline).await
}

/// A value larger than the server can hold in memory: a limit of its own, or an allocation that it refuses.
fn is_too_large(error: &SqlError) -> bool {
    error.kind == SqlErrorKind::Statement
        && match error.sqlstate.as_deref() {
            Some("54000" | "53200") => true,
            Some("XX000") => error.message.contains("alloc request size"),
            Some(_) | None => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::catalog::RelationName;

    fn table() -> Table {
        Table {
            name: RelationName { schema: "s".into(), name: "a \"b\" 'c'".into() },
            columns: vec!["t".into()],
            bytes: 0,
            inherits: false,
            extension: None,
            condition: None,
        }
    }

    #[test]
    fn names_are_quoted_for_where_they_stand() {
        let statement = table_statement(&table(), Recipe { hash: Hash::Seeded, to_utf8: false }, Method::Row);
        assert!(statement.contains(r#"FROM ONLY "s"."a ""b"" 'c'" AS t"#), "{statement}");
        assert!(statement.contains(r#"'a "b" ''c'''"#), "{statement}");
        assert!(statement.contains("record_out(t.*)"), "{statement}");
    }

    #[test]
    fn what_is_hashed_is_the_text_as_it_stands_or_in_utf8() {
        let of = |hash, to_utf8| text(Recipe { hash, to_utf8 }, "e");
        assert_eq!(of(Hash::Seeded, false), "e");
        assert_eq!(of(Hash::Seeded, true), "pg_catalog.encode(pg_catalog.convert_to(e, 'UTF8'), 'hex')");
        for to_utf8 in [false, true] {
            assert_eq!(
                of(Hash::Sha256, to_utf8),
                "pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(e, 'UTF8')), 'hex')"
            );
        }
    }

    #[test]
    fn only_size_leads_to_columns() {
        let error = |code: &str, message: &str| SqlError {
            kind: SqlErrorKind::Statement,
            sqlstate: Some(code.into()),
            message: message.into(),
        };
        assert!(is_too_large(&error("XX000", "invalid memory alloc request size 1120000003")));
        assert!(is_too_large(&error("54000", "out of memory")));
        assert!(!is_too_large(&error("42501", "permission denied")));
        assert!(!is_too_large(&SqlError::new(SqlErrorKind::Deadline, "")));
    }
}
