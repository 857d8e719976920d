//! Comparing the contents of two databases. Pure.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Contents, Method, SequenceValue, TableDigest};

/// One way in which the target is not the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Difference {
    /// The recipes differ, so nothing can be said.
    Recipe,
    /// A schema that only one side has.
    Schema {
        /// Its name.
        name: String,
        /// The source has it; otherwise the target.
        in_source: bool,
    },
    /// A table that only one side has, or a materialized view that is filled on one side only.
    Table {
        /// The schema.
        schema: String,
        /// The table.
        table: String,
        /// The source has it; otherwise the target.
        in_source: bool,
    },
    /// Numbers of rows differ.
    Rows {
        /// The schema.
        schema: String,
        /// The table.
        table: String,
        /// Rows of the source.
        source: u64,
        /// Rows of the target.
        target: u64,
    },
    /// As many rows, but not the same ones.
    Content {
        /// The schema.
        schema: String,
        /// The table.
        table: String,
    },
    /// The digests were made by different methods: this table must be digested again, both sides by columns.
    Method {
        /// The schema.
        schema: String,
        /// The table.
        table: String,
    },
    /// A sequence stands elsewhere, or only one side has it.
    Sequence {
        /// The schema.
        schema: String,
        /// The sequence.
        name: String,
        /// Last value and whether it was handed out, in the source.
        source: Option<(i64, bool)>,
        /// The same in the target.
        target: Option<(i64, bool)>,
    },
    /// Large objects differ.
    LargeObjects {
        /// How many the source has.
        source: u64,
        /// How many the target has.
        target: u64,
    },
    /// Alembic stands elsewhere.
    Alembic {
        /// The schema of its table.
        schema: String,
        /// The source's revisions.
        source: Vec<String>,
        /// The target's revisions.
        target: Vec<String>,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |in_source: bool| if in_source { "source" } else { "target" };
        match self {
            Self::Recipe => write!(f, "the digests were made by different recipes"),
            Self::Schema { name, in_source } => write!(f, "schema {name} is only in the {}", side(*in_source)),
            Self::Table { schema, table, in_source } => {
                write!(f, "table {schema}.{table} is only in the {}", side(*in_source))
            }
            Self::Rows { schema, table, source, target } => {
                write!(f, "table {schema}.{table} has {source} rows in the source and {target} in the target")
            }
            Self::Content { schema, table } => write!(f, "table {schema}.{table} has other rows in the target"),
            Self::Method { schema, table } => {
                write!(f, "table {schema}.{table} was digested by different methods")
            }
            Self::Sequence { schema, name, source, target } => {
                let words = |value: &Option<(i64, bool)>| match value {
                    None => "absent".to_owned(),
                    Some((value, true)) => format!("{value}, handed out"),
                    Some((value, false)) => format!("{value}, not handed out"),
                };
                write!(
                    f,
                    "sequence {schema}.{name} stands at {} in the source and at {} in the target",
                    words(source),
                    words(target)
                )
            }
            Self::LargeObjects { source, target } if source == target => {
                write!(f, "the {source} large objects have other contents in the target")
            }
            Self::LargeObjects { source, target } => {
                write!(f, "there are {source} large objects in the source and {target} in the target")
            }
            Self::Alembic { schema, source, target } => {
                write!(f, "alembic in schema {schema} stands at {source:?} in the source and at {target:?} in the target")
            }
        }
    }
}

/// All differences between two contents, in a fixed order. Empty: equal.
///
/// The schema `public` that only the target has is no difference: every new database has it. What is in it is named.
/// A table of an extension that only one side has counts only when it holds rows in the source: versions of an extension
/// differ in their own tables.
pub fn compare(source: &Contents, target: &Contents) -> Vec<Difference> {
    if source.recipe != target.recipe {
        return vec![Difference::Recipe];
    }
    let mut differences = Vec::new();
    for (name, in_source) in only(&source.schemas, &target.schemas) {
        if in_source || name != "public" {
            differences.push(Difference::Schema { name, in_source });
        }
    }
    tables(&source.tables, &target.tables, &mut differences);
    for (view, in_source) in only(&source.unpopulated, &target.unpopulated) {
        // A view that is filled on the other side is among its tables, and named there.
        let filled = if in_source { &target.tables } else { &source.tables };
        if !filled.iter().any(|one| one.schema == view.schema && one.table == view.name) {
            differences.push(Difference::Table { schema: view.schema, table: view.name, in_source });
        }
    }
    sequences(&source.sequences, &target.sequences, &mut differences);
    if source.large_objects != target.large_objects {
        differences.push(Difference::LargeObjects { source: source.large_objects.count, target: target.large_objects.count });
    }
    let alembic = |side: &Contents| -> BTreeMap<String, Vec<String>> {
        side.alembic.iter().map(|one| (one.schema.clone(), one.versions.clone())).collect()
    };
    let (there, here) = (alembic(source), alembic(target));
    for schema in union(&there, &here) {
        let (source, target) = (there.get(&schema), here.get(&schema));
        if source != target {
            differences.push(Difference::Alembic {
                schema,
                source: source.cloned().unwrap_or_default(),
                target: target.cloned().unwrap_or_default(),
            });
        }
    }
    differences
}

fn tables(source: &[TableDigest], target: &[TableDigest], differences: &mut Vec<Difference>) {
    let index = |side: &[TableDigest]| -> BTreeMap<(String, String), TableDigest> {
        side.iter().map(|one| ((one.schema.clone(), one.table.clone()), one.clone())).collect()
    };
    let (there, here) = (index(source), index(target));
    for key in union(&there, &here) {
        let (schema, table) = key.clone();
        match (there.get(&key), here.get(&key)) {
            (Some(a), Some(b)) if a.rows != b.rows => {
                differences.push(Difference::Rows { schema, table, source: a.rows, target: b.rows });
            }
            (Some(TableDigest { method: Method::Row, .. }), Some(TableDigest { method: Method::Columns, .. }))
            | (Some(TableDigest { method: Method::Columns, .. }), Some(TableDigest { method: Method::Row, .. })) => {
                differences.push(Difference::Method { schema, table });
            }
            (Some(a), Some(b)) if a.d1 != b.d1 || a.d2 != b.d2 => {
                differences.push(Difference::Content { schema, table });
            }
            (Some(a), None) if a.extension.is_none() || a.rows > 0 => {
                differences.push(Difference::Table { schema, table, in_source: true });
            }
            (None, Some(b)) if b.extension.is_none() => {
                differences.push(Difference::Table { schema, table, in_source: false });
            }
            (Some(_) | None, Some(_) | None) => {}
        }
    }
}

fn sequences(source: &[SequenceValue], target: &[SequenceValue], differences: &mut Vec<Difference>) {
    let index = |side: &[SequenceValue]| -> BTreeMap<(String, String), (i64, bool)> {
        side.iter().map(|one| ((one.schema.clone(), one.name.clone()), (one.last_value, one.is_called))).collect()
    };
    let (there, here) = (index(source), index(target));
    for key in union(&there, &here) {
        let (source, target) = (there.get(&key).copied(), here.get(&key).copied());
        if source != target {
            let (schema, name) = key;
            differences.push(Difference::Sequence { schema, name, source, target });
        }
    }
}

/// What only one of two lists holds; true: the first one.
fn only<T: Ord + Clone>(source: &[T], target: &[T]) -> Vec<(T, bool)> {
    let mut found: Vec<(T, bool)> = source
        .iter()
        .filter(|one| !target.contains(one))
        .map(|one| (one.clone(), true))
        .chain(target.iter().filter(|one| !source.contains(one)).map(|one| (one.clone(), false)))
        .collect();
    found.sort();
    found
}

fn union<K: Ord + Clone, V>(a: &BTreeMap<K, V>, b: &BTreeMap<K, V>) -> Vec<K> {
    let mut keys: Vec<K> = a.keys().chain(b.keys()).cloned().collect();
    keys.sort();
    keys.dedup();
    keys
}

#[cfg(test)]
mod tests {
    use super::super::{Hash, LargeObjectMethod, LargeObjects, Recipe};
    use super::*;
    use crate::postgres::catalog::{AlembicVersions, RelationName};

    fn digest(table: &str, rows: u64, d1: &str) -> TableDigest {
        TableDigest {
            schema: "public".into(),
            table: table.into(),
            method: Method::Row,
            rows,
            d1: d1.into(),
            d2: "0".into(),
            extension: None,
        }
    }

    fn contents() -> Contents {
        Contents {
            recipe: Recipe { hash: Hash::Seeded, to_utf8: false },
            tables: vec![digest("a", 2, "10"), digest("b", 0, "0")],
            unpopulated: vec![RelationName { schema: "public".into(), name: "v".into() }],
            sequences: vec![SequenceValue { schema: "public".into(), name: "s".into(), last_value: 5, is_called: true }],
            large_objects: LargeObjects { method: LargeObjectMethod::Pages, count: 1, d1: "1".into(), d2: "2".into() },
            schemas: vec!["public".into()],
            alembic: vec![AlembicVersions { schema: "public".into(), versions: vec!["r1".into()] }],
        }
    }

    fn differences(change: impl FnOnce(&mut Contents)) -> Vec<String> {
        let mut target = contents();
        change(&mut target);
        assert_ne!(target.fingerprint(), contents().fingerprint());
        compare(&contents(), &target).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn equal_contents_have_no_difference_in_any_order() {
        let mut target = contents();
        target.tables.reverse();
        assert_eq!(compare(&contents(), &target), []);
        assert_eq!(target.fingerprint(), contents().fingerprint());
    }

    #[test]
    fn every_difference_is_named() {
        assert_eq!(differences(|t| t.tables[0].rows = 1), ["table public.a has 2 rows in the source and 1 in the target"]);
        assert_eq!(differences(|t| t.tables[0].d1 = "11".into()), ["table public.a has other rows in the target"]);
        assert_eq!(differences(|t| t.tables[0].d2 = "11".into()), ["table public.a has other rows in the target"]);
        assert_eq!(differences(|t| t.tables[0].method = Method::Columns), ["table public.a was digested by different methods"]);
        assert_eq!(differences(|t| drop(t.tables.pop())), ["table public.b is only in the source"]);
        assert_eq!(differences(|t| t.tables.push(digest("c", 0, "0"))), ["table public.c is only in the target"]);
        assert_eq!(
            differences(|t| t.sequences[0].is_called = false),
            ["sequence public.s stands at 5, handed out in the source and at 5, not handed out in the target"]
        );
        assert_eq!(
            differences(|t| t.sequences.clear()),
            ["sequence public.s stands at 5, handed out in the source and at absent in the target"]
        );
        assert_eq!(differences(|t| t.large_objects.d1 = "9".into()), ["the 1 large objects have other contents in the target"]);
        assert_eq!(differences(|t| t.schemas.push("x".into())), ["schema x is only in the target"]);
        assert_eq!(
            differences(|t| t.alembic[0].versions.clear()),
            ["alembic in schema public stands at [\"r1\"] in the source and at [] in the target"]
        );
        assert_eq!(differences(|t| t.recipe.to_utf8 = true), ["the digests were made by different recipes"]);
    }

    #[test]
    fn a_materialized_view_filled_on_one_side_is_named_once() {
        let mut target = contents();
        target.unpopulated.clear();
        target.tables.push(digest("v", 0, "0"));
        assert_eq!(
            compare(&contents(), &target),
            [Difference::Table { schema: "public".into(), table: "v".into(), in_source: false }]
        );
    }

    #[test]
    fn a_view_is_told_from_its_namesakes() {
        let with = |schema: &str, table: &str| {
            let mut target = contents();
            target.unpopulated.clear();
            target.tables.push(TableDigest { schema: schema.into(), ..digest(table, 0, "0") });
            compare(&contents(), &target).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(with("public", "v"), ["table public.v is only in the target"]);
        for other in [("other", "v"), ("public", "w")] {
            let said = with(other.0, other.1);
            assert!(said.len() == 2 && said.contains(&"table public.v is only in the source".into()), "{said:?}");
        }
    }

    #[test]
    fn a_target_has_a_schema_public_whatever_the_source_has() {
        let mut without = contents();
        without.schemas.clear();
        assert_eq!(compare(&without, &contents()), []);
        assert_eq!(compare(&contents(), &without), [Difference::Schema { name: "public".into(), in_source: true }]);
    }

    #[test]
    fn an_extensions_own_table_counts_only_with_rows() {
        let extension = |rows| TableDigest { extension: Some("postgis".into()), ..digest("x", rows, "1") };
        let mut source = contents();
        source.tables.push(extension(0));
        assert_eq!(compare(&source, &contents()), []);
        assert_eq!(compare(&contents(), &source), []);
        source.tables[2] = extension(1);
        assert_eq!(compare(&source, &contents()).len(), 1);
    }
}
