//! Reading one key of one Secret, by `get` and with the rights of the client given. Secrets are never listed, watched or mounted.

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};

use super::errors::{Error, Kind, Request, absent_as_none, ask};

/// Why a key cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SecretError {
    /// There is no such Secret.
    #[error("Secret {namespace}/{name} does not exist")]
    SecretAbsent {
        /// Namespace of the Secret.
        namespace: String,
        /// Name of the Secret.
        name: String,
    },
    /// The Secret has no such key, or it is empty.
    #[error("Secret {namespace}/{name} has no key {key}, or it is empty")]
    KeyAbsent {
        /// Namespace of the Secret.
        namespace: String,
        /// Name of the Secret.
        name: String,
        /// The key.
        key: String,
    },
    /// The account may not read the Secret.
    #[error("Secret {namespace}/{name} cannot be read: the account lacks the right get secrets")]
    Forbidden {
        /// Namespace of the Secret.
        namespace: String,
        /// Name of the Secret.
        name: String,
    },
    /// The value is not UTF-8 where text is needed.
    #[error("Secret {namespace}/{name} key {key} is not text")]
    NotText {
        /// Namespace of the Secret.
        namespace: String,
        /// Name of the Secret.
        name: String,
        /// The key.
        key: String,
    },
    /// The API server gave another answer.
    #[error(transparent)]
    Api(#[from] Error),
}

/// The bytes of one key. The caller never logs them.
///
/// # Errors
/// See [`SecretError`]; an empty value counts as absent.
pub async fn read_secret_key(client: &Client, namespace: &str, name: &str, key: &str) -> Result<Vec<u8>, SecretError> {
    let request = Request::new("get", "secrets", namespace, name);
    let api = Api::<Secret>::namespaced(client.clone(), namespace);
    let secret = match absent_as_none(ask(request, api.get(name)).await) {
        Ok(Some(secret)) => secret,
        Ok(None) => return Err(SecretError::SecretAbsent { namespace: namespace.into(), name: name.into() }),
        Err(error) if error.kind() == Kind::Forbidden => {
            return Err(SecretError::Forbidden { namespace: namespace.into(), name: name.into() });
        }
        Err(error) => return Err(error.into()),
    };
    match secret.data.and_then(|mut data| data.remove(key)) {
        Some(value) if !value.0.is_empty() => Ok(value.0),
        Some(_) | None => Err(SecretError::KeyAbsent { namespace: namespace.into(), name: name.into(), key: key.into() }),
    }
}

/// The text of one key, without white space around it: files turned into Secrets end in a line feed.
///
/// # Errors
/// See [`SecretError`].
pub async fn read_secret_text(client: &Client, namespace: &str, name: &str, key: &str) -> Result<String, SecretError> {
    let bytes = read_secret_key(client, namespace, name, key).await?;
    let absent = || SecretError::KeyAbsent { namespace: namespace.into(), name: name.into(), key: key.into() };
    match String::from_utf8(bytes) {
        Ok(text) if text.trim().is_empty() => Err(absent()),
        Ok(text) => Ok(text.trim().to_owned()),
        Err(_) => Err(SecretError::NotText { namespace: namespace.into(), name: name.into(), key: key.into() }),
    }
}
