//! The Secret that keeps the previous values of re-pointed settings: written once, before the first of them is changed.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::{Api, Client};
use serde::{Deserialize, Serialize};

use super::super::access::Right;
use super::super::errors::{Error, Kind, Request, absent_as_none, ask};
use super::super::labels::MigrationId;
use super::{Place, Value};

/// Key that holds the list of places; the values have keys of their own.
const INDEX: &str = "places.json";

/// A setting and the value that it had. `None`: it was not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Previous {
    /// The setting.
    pub place: Place,
    /// Its value.
    pub value: Option<Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Indexed {
    place: Place,
    /// Key of the value in the Secret. Absent: the setting was not there.
    value: Option<String>,
}

/// The rights that keeping previous values needs.
pub fn rights(name: &str) -> Vec<Right> {
    let own = |verb: &str| Right::new(verb, "", "secrets").to(name);
    vec![Right::new("create", "", "secrets"), own("get"), own("delete")]
}

/// Keeps previous values, unless they are kept already: then those that are kept stand, because the settings may have
/// been changed since. The Secret is immutable. Returns what is kept.
///
/// # Errors
/// [`Kind::Conflict`] when a Secret of that name exists that was not made for `migration`; [`Kind::Invalid`] when it cannot be read.
pub async fn keep(
    client: &Client,
    namespace: &str,
    name: &str,
    migration: &MigrationId,
    values: &[Previous],
) -> Result<Vec<Previous>, Error> {
    let request = || Request::new("create", "secrets", namespace, name);
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some(namespace.into()),
            labels: Some(migration.labels()),
            ..ObjectMeta::default()
        },
        immutable: Some(true),
        data: Some(packed(values).map_err(|why| Error::new(Kind::Invalid, request(), why))?),
        ..Secret::default()
    };
    let parameters = PostParams { field_manager: Some(crate::api::names::FIELD_MANAGER.into()), ..PostParams::default() };
    match ask(request(), Api::<Secret>::namespaced(client.clone(), namespace).create(&parameters, &secret)).await {
        Ok(_) => Ok(values.to_vec()),
        Err(error) if error.kind() == Kind::AlreadyExists => match kept(client, namespace, name, migration).await? {
            Some(values) => Ok(values),
            None => Err(Error::new(Kind::Conflict, request(), "it was deleted at this moment")),
        },
        Err(error) => Err(error),
    }
}

/// What is kept, or `None` when nothing is.
///
/// # Errors
/// As [`keep`].
pub async fn kept(client: &Client, namespace: &str, name: &str, migration: &MigrationId) -> Result<Option<Vec<Previous>>, Error> {
    let request = || Request::new("get", "secrets", namespace, name);
    let Some(secret) = absent_as_none(ask(request(), Api::<Secret>::namespaced(client.clone(), namespace).get(name)).await)?
    else {
        return Ok(None);
    };
    if !migration.owns(secret.metadata.labels.as_ref()) {
        return Err(Error::new(Kind::Conflict, request(), "it was not made for this migration"));
    }
    unpacked(&secret.data.unwrap_or_default()).map(Some).map_err(|why| Error::new(Kind::Invalid, request(), why))
}

/// Deletes what is kept. Nothing there is fine; what was not made for `migration` stays.
///
/// # Errors
/// As [`keep`].
pub async fn forget(client: &Client, namespace: &str, name: &str, migration: &MigrationId) -> Result<(), Error> {
    let api = Api::<Secret>::namespaced(client.clone(), namespace);
    let Some(secret) = absent_as_none(ask(Request::new("get", "secrets", namespace, name), api.get(name)).await)? else {
        return Ok(());
    };
    if !migration.owns(secret.metadata.labels.as_ref()) {
        return Ok(());
    }
    let parameters = DeleteParams {
        preconditions: Some(kube::api::Preconditions { uid: secret.metadata.uid, resource_version: None }),
        ..DeleteParams::default()
    };
    match ask(Request::new("delete", "secrets", namespace, name), api.delete(name, &parameters)).await {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Conflict) => Ok(()),
        Err(error) => Err(error),
    }
}

fn packed(values: &[Previous]) -> Result<BTreeMap<String, ByteString>, String> {
    let mut data = BTreeMap::new();
    let mut index = Vec::new();
    for (number, previous) in values.iter().enumerate() {
        let key = format!("value-{number}");
        index.push(Indexed { place: previous.place.clone(), value: previous.value.as_ref().map(|_| key.clone()) });
        if let Some(value) = &previous.value {
            data.insert(key, ByteString(value.0.clone()));
        }
    }
    data.insert(INDEX.into(), ByteString(serde_json::to_vec(&index).map_err(|error| error.to_string())?));
    Ok(data)
}

fn unpacked(data: &BTreeMap<String, ByteString>) -> Result<Vec<Previous>, String> {
    let index = data.get(INDEX).ok_or_else(|| format!("it has no key {INDEX}"))?;
    let index: Vec<Indexed> = serde_json::from_slice(&index.0).map_err(|error| format!("{INDEX} cannot be read: {error}"))?;
    let value = |key: &String| data.get(key).map(|bytes| Value(bytes.0.clone())).ok_or_else(|| format!("it has no key {key}"));
    index
        .into_iter()
        .map(|entry| Ok(Previous { place: entry.place, value: entry.value.as_ref().map(value).transpose()? }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::RepointKind;

    fn previous(key: &str, value: Option<&[u8]>) -> Previous {
        let place = Place::Key { kind: RepointKind::Secret, name: "s".into(), key: key.into() };
        Previous { place, value: value.map(|bytes| Value(bytes.to_vec())) }
    }

    #[test]
    fn absent_empty_and_binary_values_are_told_apart() {
        let values =
            [previous("a", None), previous("b", Some(b"")), previous("c", Some(b"\xff\x00")), previous("../d", Some(b"x"))];
        let packed = packed(&values).unwrap();
        assert_eq!(packed.keys().collect::<Vec<_>>(), ["places.json", "value-1", "value-2", "value-3"]);
        assert_eq!(unpacked(&packed).unwrap(), values);
    }

    #[test]
    fn a_missing_value_is_no_absent_setting() {
        let mut packed = packed(&[previous("a", Some(b"x"))]).unwrap();
        packed.remove("value-0");
        assert_eq!(unpacked(&packed).unwrap_err(), "it has no key value-0");
        assert!(unpacked(&BTreeMap::new()).is_err());
    }
}
