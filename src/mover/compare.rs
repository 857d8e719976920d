//! Compare: the exact digest of both databases and their definitions, side by side, and a document that names every table.

use super::Context;
use super::ends::PodEnd;
use super::error::MoverError;
use super::{orphans, watch};
use crate::archive::keys;
use crate::crash;
use crate::plan::operation::{CompareTask, Phase, Reason, Verdict};
use crate::postgres::carrier::Session;
use crate::postgres::catalog;
use crate::postgres::digest::structure::{self, Findings, StructureDifference};
use crate::postgres::digest::{self, Contents, Difference, LargeObjectMethod, Method, Recipe, Table, TableDigest};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long one table may take. Nobody knows how large a table is; only a server that went silent should meet this.
const TABLE: Duration = Duration::from_hours(12);

/// Notes that the verdict of equal databases tells; the document has all.
const NOTES: usize = 5;

/// What is written beside the archive.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CompareDocument<'a> {
    equal: bool,
    /// Differences of rows, then of definitions, each one sentence.
    differences: &'a [String],
    /// The differences of definitions with all their lines.
    structure: &'a [StructureDifference],
    /// Definitions of the source that were compared.
    definitions: usize,
    /// What differs as it may.
    notes: &'a [String],
    source: &'a Contents,
    target: &'a Contents,
}

/// One side at work.
struct Side {
    session: Box<dyn Session>,
    tables: Vec<Table>,
    unpopulated: Vec<catalog::RelationName>,
    read_large_objects: bool,
}

/// What both sides hold.
struct Both {
    /// In the source.
    there: Contents,
    /// In the target.
    here: Contents,
    definitions: Findings,
}

/// Runs the task.
///
/// # Errors
/// [`Reason::NotEqual`] is a verdict, not an error of this function. See [`Reason`] for the others.
pub async fn run(context: &Context, task: &CompareTask) -> Result<Verdict, MoverError> {
    let bucket = context.opener.bucket(&task.archive).await?;
    let uid = &context.operation.migration.uid;
    let (there, here) = tokio::try_join!(context.opener.pod(&task.source), context.opener.pod(&task.target))?;
    orphans::end(&there, uid).await?;
    orphans::end(&here, uid).await?;
    let read = watch::answers(context, &[&there, &here], read(context, &there, &here)).await?;
    let (there, here, definitions) = (read.there, read.here, read.definitions);
    let differences = digest::compare(&there, &here);

    let document_key = keys::document(&task.archive.key, "compare", context.operation.attempt);
    let named = sentences(&differences, &definitions);
    let document = CompareDocument {
        equal: named.is_empty(),
        differences: &named,
        structure: &definitions.differences,
        definitions: definitions.objects,
        notes: &definitions.notes,
        source: &there,
        target: &here,
    };
    context.counters.at_bucket(bucket.write_document(&document_key, &document)).await?;
    Ok(verdict(context, task, &there, &here, named, &definitions, document_key))
}

/// Reads both sides, at the same time.
async fn read(context: &Context, source: &PodEnd, target: &PodEnd) -> Result<Both, MoverError> {
    let (mut source, mut target) = tokio::try_join!(open(source), open(target))?;
    let recipe = agree(&mut source, &mut target).await?;
    let bytes = |side: &Side| side.tables.iter().map(|t| t.bytes).sum::<u64>();
    context.counters.update(|p| {
        p.bytes_total = Some(bytes(&source) + bytes(&target));
        p.tables_total = Some((source.tables.len() + target.tables.len()) as u64);
        p.rows_done = Some(0);
    });
    context.counters.enter(Phase::Working);
    let method = if source.read_large_objects && target.read_large_objects {
        LargeObjectMethod::Pages
    } else {
        LargeObjectMethod::Contents
    };
    let (mut there, mut here) =
        tokio::try_join!(contents(context, &mut source, recipe, method), contents(context, &mut target, recipe, method))?;
    settle_methods(&mut source, &mut target, &mut there, &mut here).await?;
    crash::point(|| "both sides digested".into());
    context.counters.enter(Phase::Sealing);
    let definitions = structure::compare(source.session.as_mut(), target.session.as_mut()).await?;
    source.session.close().await;
    target.session.close().await;
    Ok(Both { there, here, definitions })
}

/// All differences as sentences, each once: a table that is not there is missed by both comparisons.
fn sentences(rows: &[Difference], definitions: &Findings) -> Vec<String> {
    let mut named: Vec<String> = rows.iter().map(Difference::to_string).collect();
    let said: BTreeSet<String> = named.iter().cloned().collect();
    named.extend(definitions.differences.iter().map(StructureDifference::to_string).filter(|text| !said.contains(text)));
    named
}

fn verdict(
    context: &Context,
    task: &CompareTask,
    there: &Contents,
    here: &Contents,
    named: Vec<String>,
    definitions: &Findings,
    document: String,
) -> Verdict {
    let rows: u64 = there.tables.iter().map(|t| t.rows).sum();
    let tables = there.tables.len() as u64;
    let (reason, text) = match named.first() {
        None => {
            let notes: String = definitions.notes.iter().take(NOTES).flat_map(|note| ["; ", note]).collect();
            let equal = format!("{tables} tables with {rows} rows and {} definitions are equal", definitions.objects);
            (Reason::Done, format!("{equal} in {:?} and {:?}{notes}", task.source.database, task.target.database))
        }
        Some(first) => (Reason::NotEqual, format!("{} differences, the first: {first}", named.len())),
    };
    let mut verdict = context.verdict(reason, text);
    verdict.tables = Some(tables);
    verdict.rows = Some(rows);
    verdict.digest = Some(here.fingerprint());
    verdict.differences_total = named.len() as u64;
    verdict.differences = named.into_iter().take(20).collect();
    verdict.document = Some(document);
    verdict
}

async fn open(pod: &PodEnd) -> Result<Side, MoverError> {
    let (mut session, server) = pod.checked_session().await?;
    digest::prepare(session.as_mut()).await?;
    let (tables, unpopulated) = digest::tables(session.as_mut()).await?;
    Ok(Side { session, tables, unpopulated, read_large_objects: server.read_large_objects })
}

async fn agree(source: &mut Side, target: &mut Side) -> Result<Recipe, MoverError> {
    let (there, here) = tokio::try_join!(digest::self_test(source.session.as_mut()), digest::self_test(target.session.as_mut()))?;
    Recipe::agree(&there, &here).map_err(|e| MoverError::new(Reason::NotEqual, e.to_string()))
}

async fn contents(context: &Context, side: &mut Side, recipe: Recipe, method: LargeObjectMethod) -> Result<Contents, MoverError> {
    let session = side.session.as_mut();
    let mut tables = Vec::with_capacity(side.tables.len());
    for table in &side.tables {
        let digest = digest::digest_table(session, table, recipe, None, TABLE).await;
        let digest = digest.map_err(|e| MoverError::from(e).of(&format!("table {}.{}", table.name.schema, table.name.name)))?;
        context.counters.update(|p| {
            p.bytes_done += table.bytes;
            p.tables_done += 1;
            p.rows_done = p.rows_done.map(|rows| rows + digest.rows);
        });
        tables.push(digest);
    }
    Ok(Contents {
        recipe,
        tables,
        unpopulated: side.unpopulated.clone(),
        sequences: digest::sequences(session).await?,
        large_objects: digest::large_objects(session, recipe, method, TABLE).await?,
        schemas: digest::schemas(session).await?,
        alembic: catalog::alembic_versions(session).await?,
    })
}

/// Digests again, by columns on both sides, the tables that only one side could digest by row.
async fn settle_methods(
    source: &mut Side,
    target: &mut Side,
    there: &mut Contents,
    here: &mut Contents,
) -> Result<(), MoverError> {
    let methods: BTreeMap<(String, String), Method> =
        there.tables.iter().map(|t| ((t.schema.clone(), t.table.clone()), t.method)).collect();
    let differ = |t: &&TableDigest| methods.get(&(t.schema.clone(), t.table.clone())).is_some_and(|m| *m != t.method);
    let names: Vec<(String, String)> = here.tables.iter().filter(differ).map(|t| (t.schema.clone(), t.table.clone())).collect();
    let (recipe, by) = (there.recipe, Method::Columns);
    for (side, contents) in [(source, there), (target, here)] {
        for digest in
            contents.tables.iter_mut().filter(|d| d.method != by && names.contains(&(d.schema.clone(), d.table.clone())))
        {
            if let Some(table) = side.tables.iter().find(|t| t.name.schema == digest.schema && t.name.name == digest.table) {
                *digest = digest::digest_table(side.session.as_mut(), table, recipe, Some(by), TABLE).await?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::digest::structure::{Kind, Object};

    #[test]
    fn what_both_comparisons_miss_is_said_once() {
        let rows = [Difference::Table { schema: "public".into(), table: "a".into(), in_source: true }];
        let missing = |class: &str, name: &str| StructureDifference {
            object: Object { class: class.into(), name: name.into() },
            kind: Kind::Missing,
            lines: Vec::new(),
        };
        let definitions =
            Findings { differences: vec![missing("table", "public.a"), missing("view", "public.b")], ..Findings::default() };
        assert_eq!(
            sentences(&rows, &definitions),
            ["table public.a is only in the source", "view public.b is only in the source"]
        );
        assert!(sentences(&[], &Findings::default()).is_empty());
    }
}
