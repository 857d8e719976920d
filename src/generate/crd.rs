//! The resource definition: what kube derives from the types, brought into the shape that consoles and upgrades need.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Number, Value};

use super::{Error, HEADER};

/// `crd` as YAML.
///
/// An optional member becomes one that may be left out, not one that may be null: API conventions want no `nullable`, and the
/// API server drops a null where none is allowed. Bounds that are whole numbers are written as such.
pub(super) fn definition(crd: &CustomResourceDefinition) -> Result<String, Error> {
    let mut value = serde_json::to_value(crd).map_err(|error| Error::Definition(error.to_string()))?;
    plain(&mut value);
    let yaml = serde_saphyr::to_string(&value).map_err(|error| Error::Definition(error.to_string()))?;
    Ok(format!("{HEADER}{yaml}"))
}

fn plain(value: &mut Value) {
    match value {
        Value::Object(members) => {
            if members.get("nullable") == Some(&Value::Bool(true)) {
                members.remove("nullable");
            }
            if let Some(Value::Array(words)) = members.get_mut("enum") {
                words.retain(|word| !word.is_null());
            }
            for name in ["minimum", "maximum"] {
                if let Some(whole) = members.get(name).and_then(Value::as_f64).and_then(whole) {
                    members.insert(name.into(), Value::Number(whole));
                }
            }
            members.values_mut().for_each(plain);
        }
        Value::Array(items) => items.iter_mut().for_each(plain),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The number without a fraction, when it has none.
fn whole(number: f64) -> Option<Number> {
    (number.fract() == 0.0).then(|| format!("{number:.0}").parse().ok()).flatten()
}
