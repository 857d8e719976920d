//! Settings that lead an application to its database: a key of a ConfigMap or Secret, or a literal variable of a workload.
//!
//! Every write is compare-and-set: the caller says which value it expects to find. Belongs here: reading, replacing, and
//! keeping what was there before ([`previous`]). Does not belong here: which value is right; filling in templates.

pub mod ownership;
pub mod previous;

use std::fmt;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DynamicObject, Patch};
use kube::{Api, Client, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::access::Right;
use super::errors::{Error, Kind, Request, absent_as_none, ask, manager};
use super::workloads;
use crate::api::{Repoint, RepointKind, WorkloadKind, WorkloadRef};
use ownership::{Field, Manager, owner_of, tracked_by};

/// Times that a write is tried again when the object changes under it.
const ATTEMPTS: usize = 8;

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// A key of a ConfigMap or Secret.
    Key {
        /// Which of both.
        kind: RepointKind,
        /// Name of the object.
        name: String,
        /// Key in it.
        key: String,
    },
    /// A literal environment variable in a workload's template.
    Env {
        /// The workload.
        workload: WorkloadRef,
        /// The container in it.
        container: String,
        /// Name of the variable.
        env: String,
    },
}

impl Place {
    /// The place that a re-point names; `None` when it names none, or half of one.
    pub fn of(repoint: &Repoint) -> Option<Self> {
        match repoint {
            Repoint { kind: Some(kind), name: Some(name), key: Some(key), .. } => {
                Some(Self::Key { kind: *kind, name: name.clone(), key: key.clone() })
            }
            Repoint { workload_ref: Some(workload), container: Some(container), env: Some(env), .. } => {
                Some(Self::Env { workload: workload.clone(), container: container.clone(), env: env.clone() })
            }
            _ => None,
        }
    }

    /// The rights that reading and replacing it need.
    pub fn rights(&self) -> Vec<Right> {
        let (group, resource, name) = match self {
            Self::Key { kind, name, .. } => ("", resource_of(*kind), name),
            Self::Env { workload, .. } => match workloads::plural(workload.kind) {
                Some((group, plural)) => return both(&group, &plural, &workload.name),
                None => return Vec::new(),
            },
        };
        both(group, resource, name)
    }
}

fn both(group: &str, resource: &str, name: &str) -> Vec<Right> {
    ["get", "patch"].into_iter().map(|verb| Right::new(verb, group, resource).to(name)).collect()
}

fn resource_of(kind: RepointKind) -> &'static str {
    match kind {
        RepointKind::ConfigMap => "configmaps",
        RepointKind::Secret => "secrets",
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key { kind, name, key } => write!(f, "{kind:?} {name} key {key}"),
            Self::Env { workload, container, env } => {
                write!(f, "{:?} {} container {container} variable {env}", workload.kind, workload.name)
            }
        }
    }
}

/// The value of a setting, which may be secret: never shown, not even by `{:?}`.
#[derive(Clone, PartialEq, Eq)]
pub struct Value(pub Vec<u8>);

impl Value {
    /// A value from text.
    pub fn text(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }

    fn as_text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} bytes)", self.0.len())
    }
}

/// A setting as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Its value. Absent: the object has no such key, or the container no such variable.
    pub value: Option<Value>,
    /// Writers that own the field, by `metadata.managedFields`.
    pub managers: Vec<Manager>,
    /// Tools that the object's labels and annotations say it comes from: they may revert any change.
    pub tracked_by: Vec<String>,
    resource_version: String,
    /// Where in the object a variable stands.
    position: Option<Position>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    container: usize,
    /// Index of the variable; absent: it is not there.
    variable: Option<usize>,
    /// Whether the container has any variables.
    listed: bool,
}

/// How a replacement ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replacement {
    /// The new value was written now.
    Written,
    /// The new value stood there already.
    Already,
    /// Neither the expected nor the new value stands there; nothing was changed.
    ChangedByOthers,
}

/// Why a setting cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConfigError {
    /// The object, workload or container is not there.
    #[error("{0}")]
    Absent(String),
    /// It is there, but cannot be changed: immutable, taken from elsewhere, binary.
    #[error("{0}")]
    Refused(String),
    /// The API server gave another answer.
    #[error(transparent)]
    Api(#[from] Error),
}

/// Reads a setting and who owns it.
///
/// # Errors
/// [`ConfigError::Absent`]; [`ConfigError::Refused`] for an object that is immutable, a variable with `valueFrom`, a key that
/// holds binary data of a ConfigMap, and a kind of workload that is not supported.
pub async fn read(client: &Client, namespace: &str, place: &Place) -> Result<Reading, ConfigError> {
    match place {
        Place::Key { kind: RepointKind::ConfigMap, name, key } => {
            let request = Request::new("get", "configmaps", namespace, name);
            let api = Api::<ConfigMap>::namespaced(client.clone(), namespace);
            let found = absent_as_none(ask(request, api.get(name)).await)?.ok_or_else(|| absent(namespace, place))?;
            mutable(namespace, place, found.immutable)?;
            if found.binary_data.as_ref().is_some_and(|data| data.contains_key(key)) {
                return Err(ConfigError::Refused(format!("{place} in namespace {namespace} holds binary data")));
            }
            let value = found.data.as_ref().and_then(|data| data.get(key)).map(|text| Value::text(text));
            Ok(reading(&found.metadata, value, &Field::Data(key.clone())))
        }
        Place::Key { kind: RepointKind::Secret, name, key } => {
            let request = Request::new("get", "secrets", namespace, name);
            let api = Api::<Secret>::namespaced(client.clone(), namespace);
            let found = absent_as_none(ask(request, api.get(name)).await)?.ok_or_else(|| absent(namespace, place))?;
            mutable(namespace, place, found.immutable)?;
            let value = found.data.as_ref().and_then(|data| data.get(key)).map(|bytes| Value(bytes.0.clone()));
            Ok(reading(&found.metadata, value, &Field::Data(key.clone())))
        }
        Place::Env { workload, container, env } => {
            let (api, request) = workloads::api(client, namespace, workload.kind, "get", &workload.name)
                .map_err(|error| ConfigError::Refused(error.to_string()))?;
            let found = absent_as_none(ask(request, api.get(&workload.name)).await)?.ok_or_else(|| absent(namespace, place))?;
            let (value, position) = variable(namespace, place, &found, workload.kind, container, env)?;
            let field = Field::Env { kind: workload.kind, container: container.clone(), env: env.clone() };
            Ok(Reading { position: Some(position), ..reading(&found.metadata, value, &field) })
        }
    }
}

fn reading(metadata: &ObjectMeta, value: Option<Value>, field: &Field) -> Reading {
    Reading {
        value,
        managers: owner_of(metadata.managed_fields.as_deref().unwrap_or_default(), field),
        tracked_by: tracked_by(metadata),
        resource_version: metadata.resource_version.clone().unwrap_or_default(),
        position: None,
    }
}

fn absent(namespace: &str, place: &Place) -> ConfigError {
    ConfigError::Absent(match place {
        Place::Key { kind, name, .. } => format!("{kind:?} {namespace}/{name} does not exist"),
        Place::Env { workload, .. } => format!("{:?} {namespace}/{} does not exist", workload.kind, workload.name),
    })
}

fn mutable(namespace: &str, place: &Place, immutable: Option<bool>) -> Result<(), ConfigError> {
    match immutable {
        Some(true) => {
            Err(ConfigError::Refused(format!("{place} in namespace {namespace} cannot be changed: the object is immutable")))
        }
        Some(false) | None => Ok(()),
    }
}

fn variable(
    namespace: &str,
    place: &Place,
    object: &DynamicObject,
    kind: WorkloadKind,
    container: &str,
    env: &str,
) -> Result<(Option<Value>, Position), ConfigError> {
    let list = |value: Option<&serde_json::Value>| value.and_then(serde_json::Value::as_array).cloned().unwrap_or_default();
    let called = |entry: &serde_json::Value, name: &str| entry.get("name").and_then(serde_json::Value::as_str) == Some(name);
    let containers = list(object.data.pointer(&format!("{}/spec/containers", workloads::template_pointer(kind))));
    let Some(index) = containers.iter().position(|entry| called(entry, container)) else {
        return Err(ConfigError::Absent(format!("{kind:?} {namespace}/{} has no container {container}", object.name_any())));
    };
    let variables = list(containers.get(index).and_then(|entry| entry.get("env")));
    let mut found = variables.iter().enumerate().filter(|(_, entry)| called(entry, env));
    let position = |variable| Position { container: index, variable, listed: !variables.is_empty() };
    match (found.next(), found.next()) {
        (None, _) => Ok((None, position(None))),
        (Some(_), Some(_)) => Err(ConfigError::Refused(format!("{place} in namespace {namespace} is set twice"))),
        (Some((_, entry)), None) if entry.get("valueFrom").is_some() => Err(ConfigError::Refused(format!(
            "{place} in namespace {namespace} has valueFrom: re-point the object that it is taken from"
        ))),
        (Some((at, entry)), None) => {
            let text = entry.get("value").and_then(serde_json::Value::as_str).unwrap_or_default();
            Ok((Some(Value::text(text)), position(Some(at))))
        }
    }
}

/// Replaces a setting, if it has the value that is expected. `None` stands for "not there" on both sides, so the same
/// function puts previous values back.
///
/// # Errors
/// As [`read`]; [`ConfigError::Refused`] also for a new value that is not text where text is needed; [`Kind::Conflict`] when
/// the object changed under every attempt.
pub async fn replace(
    client: &Client,
    namespace: &str,
    place: &Place,
    expected: Option<&Value>,
    new: Option<&Value>,
) -> Result<Replacement, ConfigError> {
    for _ in 0..ATTEMPTS {
        let now = read(client, namespace, place).await?;
        if now.value.as_ref() == new {
            return Ok(Replacement::Already);
        }
        if now.value.as_ref() != expected {
            return Ok(Replacement::ChangedByOthers);
        }
        match write(client, namespace, place, &now, new).await {
            Ok(()) => return Ok(Replacement::Written),
            Err(ConfigError::Api(error)) if error.kind() == Kind::Conflict => {}
            Err(error) => return Err(error),
        }
    }
    let request = Request::new("patch", &place.to_string(), namespace, "");
    Err(Error::new(Kind::Conflict, request, format!("the object changed {ATTEMPTS} times while it was to be written")).into())
}

/// Writes, bound to the object as it was read.
async fn write(client: &Client, namespace: &str, place: &Place, now: &Reading, new: Option<&Value>) -> Result<(), ConfigError> {
    let text = |value: &Value| match value.as_text() {
        Some(text) => Ok(text.to_owned()),
        None => Err(ConfigError::Refused(format!("the new value of {place} is not text"))),
    };
    match place {
        Place::Key { kind: RepointKind::ConfigMap, name, key } => {
            let value = new.map(text).transpose()?;
            let patch = json!({"metadata": {"resourceVersion": now.resource_version}, "data": {key: value}});
            let api = Api::<ConfigMap>::namespaced(client.clone(), namespace);
            ask(Request::new("patch", "configmaps", namespace, name), api.patch(name, &manager(), &Patch::Merge(patch))).await?;
        }
        Place::Key { kind: RepointKind::Secret, name, key } => {
            let value = new.map(|value| ByteString(value.0.clone()));
            let patch = json!({"metadata": {"resourceVersion": now.resource_version}, "data": {key: value}});
            let api = Api::<Secret>::namespaced(client.clone(), namespace);
            ask(Request::new("patch", "secrets", namespace, name), api.patch(name, &manager(), &Patch::Merge(patch))).await?;
        }
        Place::Env { workload, env, .. } => {
            let (api, request) = workloads::api(client, namespace, workload.kind, "patch", &workload.name)?;
            let value = new.map(text).transpose()?;
            let operations = env_patch(workloads::template_pointer(workload.kind), place, now, env, value.as_deref());
            let patch = serde_json::from_value(operations)
                .map_err(|error| Error::new(Kind::Invalid, request.clone(), error.to_string()))?;
            ask(request, api.patch(&workload.name, &manager(), &Patch::Json::<()>(patch))).await?;
        }
    }
    Ok(())
}

/// A JSON patch that changes one variable of one container, where both were seen, of the object version that was seen.
fn env_patch(template: &str, place: &Place, now: &Reading, env: &str, value: Option<&str>) -> serde_json::Value {
    let Position { container, variable, listed } =
        now.position.unwrap_or(Position { container: 0, variable: None, listed: false });
    let name = match place {
        Place::Env { container, .. } => container.as_str(),
        Place::Key { .. } => "",
    };
    let at = format!("{template}/spec/containers/{container}");
    let mut operations = vec![
        // Replaced by itself: another version in between is answered by a conflict.
        json!({"op": "replace", "path": "/metadata/resourceVersion", "value": now.resource_version}),
        json!({"op": "test", "path": format!("{at}/name"), "value": name}),
    ];
    match (variable, value) {
        (Some(index), Some(value)) => {
            operations.push(json!({"op": "test", "path": format!("{at}/env/{index}/name"), "value": env}));
            operations.push(json!({"op": "add", "path": format!("{at}/env/{index}/value"), "value": value}));
        }
        (Some(index), None) => {
            operations.push(json!({"op": "test", "path": format!("{at}/env/{index}/name"), "value": env}));
            operations.push(json!({"op": "remove", "path": format!("{at}/env/{index}")}));
        }
        (None, Some(value)) if listed => {
            operations.push(json!({"op": "add", "path": format!("{at}/env/-"), "value": {"name": env, "value": value}}));
        }
        (None, Some(value)) => {
            operations.push(json!({"op": "add", "path": format!("{at}/env"), "value": [{"name": env, "value": value}]}));
        }
        (None, None) => {}
    }
    operations.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place::Env {
            workload: WorkloadRef { kind: WorkloadKind::Deployment, name: "api".into() },
            container: "api".into(),
            env: "POSTGRES_HOST".into(),
        }
    }

    fn object(env: serde_json::Value) -> DynamicObject {
        let containers = json!([{"name": "proxy"}, {"name": "api", "env": env}]);
        serde_json::from_value(json!({"metadata": {"name": "api"}, "spec": {"template": {"spec": {"containers": containers}}}}))
            .unwrap()
    }

    fn found(env: serde_json::Value) -> Result<(Option<Value>, Position), ConfigError> {
        variable("n", &place(), &object(env), WorkloadKind::Deployment, "api", "POSTGRES_HOST")
    }

    #[test]
    fn a_variable_is_found_where_it_stands() {
        let (value, at) = found(json!([{"name": "A", "value": "x"}, {"name": "POSTGRES_HOST", "value": "old"}])).unwrap();
        assert_eq!((value, at), (Some(Value::text("old")), Position { container: 1, variable: Some(1), listed: true }));
        assert_eq!(
            found(json!([{"name": "POSTGRES_HOST"}])).unwrap().0,
            Some(Value::text("")),
            "an empty value is left out by the server"
        );
        assert_eq!(found(json!([{"name": "A"}])).unwrap(), (None, Position { container: 1, variable: None, listed: true }));
        assert_eq!(found(json!([])).unwrap(), (None, Position { container: 1, variable: None, listed: false }));
    }

    #[test]
    fn a_variable_that_is_no_literal_is_refused() {
        let from =
            found(json!([{"name": "POSTGRES_HOST", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}])).unwrap_err();
        assert!(matches!(&from, ConfigError::Refused(why) if why.contains("valueFrom")), "{from}");
        let twice = found(json!([{"name": "POSTGRES_HOST", "value": "a"}, {"name": "POSTGRES_HOST", "value": "b"}])).unwrap_err();
        assert!(matches!(&twice, ConfigError::Refused(why) if why.contains("twice")), "{twice}");
        let none = variable("n", &place(), &object(json!([])), WorkloadKind::Deployment, "web", "X").unwrap_err();
        assert_eq!(none.to_string(), "Deployment n/api has no container web");
    }

    #[test]
    fn a_value_is_never_shown() {
        assert_eq!(format!("{:?}", Value::text("s3cr3t")), "(6 bytes)");
    }

    #[test]
    fn half_a_place_is_none() {
        let repoint = |kind: Option<RepointKind>, key: Option<&str>| Repoint {
            kind,
            name: Some("c".into()),
            key: key.map(Into::into),
            workload_ref: None,
            container: None,
            env: None,
            template: String::new(),
        };
        let whole = Place::of(&repoint(Some(RepointKind::ConfigMap), Some("k"))).unwrap();
        assert_eq!(whole.to_string(), "ConfigMap c key k");
        assert_eq!(Place::of(&repoint(None, Some("k"))), None);
        assert_eq!(Place::of(&repoint(Some(RepointKind::Secret), None)), None);
        let rights: Vec<String> = place().rights().iter().map(ToString::to_string).collect();
        assert_eq!(rights, ["get deployments.apps \"api\"", "patch deployments.apps \"api\""]);
    }
}
