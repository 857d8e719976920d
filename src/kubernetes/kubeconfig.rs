//! Reading a kubeconfig that somebody else wrote.
//!
//! A kubeconfig may run programs, read files and send requests anywhere. This reader is an allowlist: what it does not know is
//! refused by name, so nothing that a user puts there can run in, or read from, the operator or the mover.
//! Belongs here: text in, plain values out. Does not belong here: clients, requests.

use k8s_openapi::ByteString;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value};
use std::fmt;

/// Largest kubeconfig in bytes.
pub const LIMIT: usize = 64 * 1024;

/// How the client proves who it is.
#[derive(Clone)]
pub enum Credential {
    /// Bearer token.
    Token(String),
    /// Client certificate chain and private key, both PEM.
    Certificate {
        /// Certificates, leaf first.
        certificate: String,
        /// Private key.
        key: String,
    },
}

/// What a kubeconfig says, all of it checked.
#[derive(Clone)]
pub struct Kubeconfig {
    /// `https://host[:port][/path]`.
    pub server: http::Uri,
    /// Trusted certificates, DER.
    pub authorities: Vec<Vec<u8>>,
    /// Name that the server's certificate must carry, when it is not the host's.
    pub tls_server_name: Option<String>,
    /// Namespace of the context.
    pub namespace: Option<String>,
    /// How the client proves who it is.
    pub credential: Credential,
}

impl fmt::Debug for Kubeconfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubeconfig").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Why a kubeconfig is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KubeconfigError {
    /// It holds what is not allowed, or lacks what is needed. Never shows a value of a credential.
    #[error("the kubeconfig is refused: {0}")]
    Refused(String),
    /// Its token is over.
    #[error("the kubeconfig's token expired at {0}")]
    Expired(Timestamp),
}

fn refused<T>(why: impl Into<String>) -> Result<T, KubeconfigError> {
    Err(KubeconfigError::Refused(why.into()))
}

/// Reads a kubeconfig. Only the current context and its cluster and user are looked at; other entries are never used.
///
/// Accepted: an https server, `certificate-authority-data`, `tls-server-name`, and one of `token` and
/// `client-certificate-data` with `client-key-data`.
///
/// # Errors
/// [`KubeconfigError::Refused`] names what is wrong; [`KubeconfigError::Expired`] when the token is a JWT whose `exp` is at or before `now`.
pub fn parse(text: &str, now: Timestamp) -> Result<Kubeconfig, KubeconfigError> {
    if text.len() > LIMIT {
        return refused(format!("it has {} bytes, more than {LIMIT}", text.len()));
    }
    let document = document(text)?;
    only(
        &document,
        "kubeconfig",
        &["apiVersion", "kind", "preferences", "clusters", "users", "contexts", "current-context", "extensions"],
    )?;
    for (key, expected) in [("apiVersion", "v1"), ("kind", "Config")] {
        match optional(&document, "kubeconfig", key)? {
            Some(value) if value != expected => return refused(format!("{key} is not {expected}")),
            Some(_) | None => {}
        }
    }
    let context_name = required(&document, "kubeconfig", "current-context")?;
    let context = entry(&document, "contexts", "context", context_name)?;
    only(context, "context", &["cluster", "user", "namespace", "extensions"])?;
    let cluster = entry(&document, "clusters", "cluster", required(context, "context", "cluster")?)?;
    let user = entry(&document, "users", "user", required(context, "context", "user")?)?;

    let (server, authorities) = cluster_of(cluster)?;
    Ok(Kubeconfig {
        server,
        authorities,
        tls_server_name: optional(cluster, "cluster", "tls-server-name")?.map(str::to_owned),
        namespace: optional(context, "context", "namespace")?.map(str::to_owned),
        credential: credential_of(user, now)?,
    })
}

fn document(text: &str) -> Result<Map<String, Value>, KubeconfigError> {
    // Anchors have no use in a kubeconfig; without them no small text can grow into a large document.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_aliases: 0, max_anchors: 0, max_depth: 16, max_documents: 1, max_nodes: 5000, max_merge_keys: 0 },
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::Error,
        with_snippet: false,
    };
    match serde_saphyr::from_str_with_options::<Value>(text, options) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => refused("it is not a YAML mapping"),
        // The parser's message may quote the text, and with it a credential.
        Err(_) => {
            refused("it is not one plain YAML document (anchors, aliases, repeated keys and several documents are not allowed)")
        }
    }
}

fn cluster_of(cluster: &Map<String, Value>) -> Result<(http::Uri, Vec<Vec<u8>>), KubeconfigError> {
    const CHECKED: &str = "cluster";
    for (key, why) in
        [("certificate-authority", "is a file path; use certificate-authority-data"), ("proxy-url", "is not allowed")]
    {
        if is_set(cluster, key) {
            return refused(format!("{CHECKED}.{key} {why}"));
        }
    }
    match cluster.get("insecure-skip-tls-verify") {
        None | Some(Value::Null | Value::Bool(false)) => {}
        Some(_) => return refused("cluster.insecure-skip-tls-verify is not allowed; use certificate-authority-data"),
    }
    let allowed = [
        "server",
        "certificate-authority-data",
        "tls-server-name",
        "disable-compression",
        "extensions",
        "certificate-authority",
        "proxy-url",
        "insecure-skip-tls-verify",
    ];
    only(cluster, CHECKED, &allowed)?;

    let Ok(server) = required(cluster, CHECKED, "server")?.parse::<http::Uri>() else {
        return refused("cluster.server is not a URL");
    };
    if server.scheme() != Some(&http::uri::Scheme::HTTPS) {
        return refused("cluster.server must begin with https://");
    }
    let authority = server.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    if authority.contains('@') {
        return refused("cluster.server must not hold a user name or password");
    }
    if server.host().is_none_or(str::is_empty) || server.query().is_some() {
        return refused("cluster.server must be https://host[:port][/path]");
    }

    let Some(pem) = decoded(cluster, CHECKED, "certificate-authority-data")? else {
        return refused("cluster.certificate-authority-data is absent");
    };
    let authorities = certificates(&pem);
    if authorities.is_empty() {
        return refused("cluster.certificate-authority-data holds no PEM certificate");
    }
    Ok((server, authorities))
}

fn credential_of(user: &Map<String, Value>, now: Timestamp) -> Result<Credential, KubeconfigError> {
    const CHECKED: &str = "user";
    for (key, why) in [
        ("exec", "would run a program"),
        ("auth-provider", "would run a plugin"),
        ("tokenFile", "is a file path; use token"),
        ("client-certificate", "is a file path; use client-certificate-data"),
        ("client-key", "is a file path; use client-key-data"),
        ("username", "is not supported; use token"),
        ("password", "is not supported; use token"),
        ("as", "is not allowed: use an account that has the rights itself"),
        ("as-uid", "is not allowed"),
        ("as-groups", "is not allowed"),
        ("as-user-extra", "is not allowed"),
    ] {
        if is_set(user, key) {
            return refused(format!("{CHECKED}.{key} {why}"));
        }
    }
    let allowed = [
        "token",
        "client-certificate-data",
        "client-key-data",
        "extensions",
        "exec",
        "auth-provider",
        "tokenFile",
        "client-certificate",
        "client-key",
        "username",
        "password",
        "as",
        "as-uid",
        "as-groups",
        "as-user-extra",
    ];
    only(user, CHECKED, &allowed)?;

    let token = optional(user, CHECKED, "token")?;
    let certificate = decoded(user, CHECKED, "client-certificate-data")?;
    let key = decoded(user, CHECKED, "client-key-data")?;
    match (token, certificate, key) {
        (Some(token), None, None) => {
            if !token.bytes().all(|b| b.is_ascii_graphic()) {
                return refused("user.token holds characters that no token has");
            }
            match expiry(token) {
                Some(end) if end <= now => Err(KubeconfigError::Expired(end)),
                Some(_) | None => Ok(Credential::Token(token.to_owned())),
            }
        }
        (None, Some(certificate), Some(key)) => {
            if certificates(&certificate).is_empty() {
                return refused("user.client-certificate-data holds no PEM certificate");
            }
            let (Ok(certificate), Ok(key)) = (String::from_utf8(certificate), String::from_utf8(key)) else {
                return refused("user.client-certificate-data and user.client-key-data must be PEM");
            };
            if !key.contains("PRIVATE KEY-----") {
                return refused("user.client-key-data holds no PEM private key");
            }
            Ok(Credential::Certificate { certificate, key })
        }
        (None, None, None) => refused("user holds no token and no client certificate"),
        (None, Some(_), None) => refused("user.client-key-data is absent"),
        (None, None, Some(_)) => refused("user.client-certificate-data is absent"),
        (Some(_), _, _) => refused("user must hold either a token or a client certificate, not both"),
    }
}

/// The one entry of that name.
fn entry<'a>(
    document: &'a Map<String, Value>,
    list: &str,
    member: &str,
    name: &str,
) -> Result<&'a Map<String, Value>, KubeconfigError> {
    let Some(Value::Array(entries)) = document.get(list) else { return refused(format!("{list} is not a list")) };
    let mut named = entries.iter().filter(|e| e.get("name").and_then(Value::as_str) == Some(name));
    let Some(found) = named.next() else {
        return refused(format!("{list} has no entry of the name that the current context uses"));
    };
    if named.next().is_some() {
        return refused(format!("{list} has two entries of the name that the current context uses"));
    }
    if let Value::Object(outer) = found {
        only(outer, list, &["name", member])?;
    }
    match found.get(member) {
        Some(Value::Object(map)) => Ok(map),
        Some(_) | None => refused(format!("an entry of {list} has no {member}")),
    }
}

/// Refuses members that this reader does not know, by name: one unknown today may mean anything tomorrow.
fn only(map: &Map<String, Value>, place: &str, known: &[&str]) -> Result<(), KubeconfigError> {
    match map.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => {
            let key: String = key.chars().filter(char::is_ascii_graphic).take(40).collect();
            refused(format!("{place}.{key} is not known"))
        }
    }
}

fn is_set(map: &Map<String, Value>, key: &str) -> bool {
    match map.get(key) {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(_) => true,
    }
}

fn optional<'a>(map: &'a Map<String, Value>, place: &str, key: &str) -> Result<Option<&'a str>, KubeconfigError> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => refused(format!("{place}.{key} is not text")),
    }
}

fn required<'a>(map: &'a Map<String, Value>, place: &str, key: &str) -> Result<&'a str, KubeconfigError> {
    match optional(map, place, key)? {
        Some(text) => Ok(text),
        None => refused(format!("{place}.{key} is absent")),
    }
}

fn decoded(map: &Map<String, Value>, place: &str, key: &str) -> Result<Option<Vec<u8>>, KubeconfigError> {
    let Some(text) = optional(map, place, key)? else { return Ok(None) };
    let compact: String = text.split_ascii_whitespace().collect();
    match base64(&compact) {
        Some(bytes) => Ok(Some(bytes)),
        None => refused(format!("{place}.{key} is not base64")),
    }
}

fn certificates(pem: &[u8]) -> Vec<Vec<u8>> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    CertificateDer::pem_slice_iter(pem).map_while(Result::ok).map(|der| der.as_ref().to_vec()).collect()
}

/// Standard alphabet, padded.
fn base64(text: &str) -> Option<Vec<u8>> {
    serde_json::from_value::<ByteString>(Value::String(text.to_owned())).ok().map(|bytes| bytes.0)
}

/// When a JWT ends. `None` when the token is no JWT or names no end: then only the server can tell.
fn expiry(token: &str) -> Option<Timestamp> {
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else { return None };
    let mut standard: String = claims
        .chars()
        .map(|c| {
            if c == '-' {
                '+'
            } else if c == '_' {
                '/'
            } else {
                c
            }
        })
        .collect();
    while !standard.len().is_multiple_of(4) {
        standard.push('=');
    }
    let claims: Value = serde_json::from_slice(&base64(&standard)?).ok()?;
    let end = claims.get("exp")?;
    #[allow(clippy::cast_possible_truncation)] // a time beyond the range of i64 saturates, and is refused by from_second
    let seconds = end.as_i64().or_else(|| end.as_f64().map(|seconds| seconds as i64))?;
    Timestamp::from_second(seconds).ok()
}

#[cfg(test)]
#[path = "kubeconfig_tests.rs"]
mod tests;
