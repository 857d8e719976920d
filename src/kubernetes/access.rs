//! Which rights an account has, asked of the API server itself (`SelfSubjectAccessReview`) with that account's client.

use std::fmt;

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};

use super::errors::{Error, Request, ask};

/// Reviews in flight at once: enough to be quick, too few to be throttled.
const CONCURRENCY: usize = 8;

/// One right in a namespace. Shown as `create pods/exec`, `get secrets "bucket"`, `patch deployments.apps/scale`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Right {
    /// API group; empty for the core group.
    pub group: String,
    /// Plural name.
    pub resource: String,
    /// Subresource, such as `exec`; empty for the object itself.
    pub subresource: String,
    /// RBAC verb.
    pub verb: String,
    /// One object only. Absent: any in the namespace.
    pub name: Option<String>,
}

impl Right {
    /// A right to any object of a resource. `resource` may hold a subresource: `pods/exec`.
    pub fn new(verb: &str, group: &str, resource: &str) -> Self {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Self { group: group.into(), resource: resource.into(), subresource: subresource.into(), verb: verb.into(), name: None }
    }

    /// The same right to one object only.
    #[must_use]
    pub fn to(self, name: &str) -> Self {
        Self { name: Some(name.into()), ..self }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        if !self.subresource.is_empty() {
            write!(f, "/{}", self.subresource)?;
        }
        if let Some(name) = &self.name {
            write!(f, " \"{name}\"")?;
        }
        Ok(())
    }
}

/// Those of `rights` that the client's account lacks in `namespace`, in the order given, each once.
///
/// A right that is granted may still be refused at use, by an admission rule for instance.
///
/// # Errors
/// When a review cannot be asked; no answer is ever taken for a grant.
pub async fn missing(client: &Client, namespace: &str, rights: &[Right]) -> Result<Vec<Right>, Error> {
    let mut wanted: Vec<Right> = Vec::new();
    for right in rights {
        if !wanted.contains(right) {
            wanted.push(right.clone());
        }
    }
    let reviews = stream::iter(wanted).map(|right| async move {
        let allowed = allowed(client, namespace, &right).await?;
        Ok((right, allowed))
    });
    let answers: Vec<(Right, bool)> = reviews.buffered(CONCURRENCY).try_collect().await?;
    Ok(answers.into_iter().filter(|(_, allowed)| !allowed).map(|(right, _)| right).collect())
}

async fn allowed(client: &Client, namespace: &str, right: &Right) -> Result<bool, Error> {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                group: some(&right.group),
                resource: some(&right.resource),
                subresource: some(&right.subresource),
                verb: some(&right.verb),
                name: right.name.clone(),
                namespace: some(namespace),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let request = Request::new("create", "selfsubjectaccessreviews.authorization.k8s.io", "", "");
    let answer = ask(request, Api::all(client.clone()).create(&PostParams::default(), &review)).await?;
    Ok(answer.status.is_some_and(|status| status.allowed && !status.denied.unwrap_or(false)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_reads_as_people_write_it() {
        assert_eq!(Right::new("create", "", "pods/exec").to_string(), "create pods/exec");
        assert_eq!(Right::new("patch", "apps", "deployments/scale").to_string(), "patch deployments.apps/scale");
        assert_eq!(Right::new("get", "", "secrets").to("bucket").to_string(), "get secrets \"bucket\"");
    }
}
