//! Does the account have every right that the spec needs, on each side? Asked of the API servers themselves.

use crate::api::{Cluster, Side};
use crate::kubernetes::access;
use crate::plan::Failure;
use crate::plan::checks::Findings;
use crate::plan::checks::rights::{self, Account};
use crate::steps::context::{Context, kubernetes};

/// Fails with all rights that are missing, each named, in the status as blockers.
pub async fn check(cx: &mut Context<'_>) -> Result<(), Failure> {
    let spec = cx.spec();
    let (home, previous) = (cx.home(), cx.names.previous_values());
    let mut out = Findings::default();
    let own = Account {
        path: "spec.serviceAccountName".into(),
        words: format!("ServiceAccount {home}/{}", spec.service_account_name),
        namespace: home.clone(),
        cluster: "this cluster".into(),
    };
    let client = cx.author().await?;
    let missing = access::missing(&client, &home, &rights::home(spec)).await.map_err(|e| unanswered(&own, &kubernetes(&e)))?;
    rights::judge(&mut out, &own, &missing);
    // Without its kubeconfig a side cannot be asked.
    if out.blockers.is_empty() {
        for (side, cluster, wanted) in [
            (Side::Source, &spec.source.cluster, rights::source(spec)),
            (Side::Target, &spec.target.cluster, rights::target(spec, &previous)),
        ] {
            let account = Account {
                namespace: cx.namespace(side),
                cluster: cx.cluster_words(side),
                ..account(&own, &home, side, cluster.as_ref())
            };
            let client = cx.cluster(side).await?;
            let missing =
                access::missing(&client, &account.namespace, &wanted).await.map_err(|e| unanswered(&account, &kubernetes(&e)))?;
            rights::judge(&mut out, &account, &missing);
        }
    }
    if out.blockers.is_empty() { Ok(()) } else { Err(super::refuse(cx, &out)) }
}

fn account(own: &Account, home: &str, side: Side, cluster: Option<&Cluster>) -> Account {
    match cluster.and_then(|cluster| cluster.kubeconfig_secret_ref.as_ref()) {
        None => own.clone(),
        Some(secret) => Account {
            path: format!("{}.cluster.kubeconfigSecretRef", crate::steps::context::path(side)),
            words: format!("the account of the kubeconfig in Secret {home}/{} key {}", secret.name, secret.key),
            ..own.clone()
        },
    }
}

fn unanswered(account: &Account, failure: &Failure) -> Failure {
    Failure {
        message: format!(
            "{}: {} cannot be used for namespace {} of {}: {}",
            account.path, account.words, account.namespace, account.cluster, failure.message
        ),
        ..failure.clone()
    }
}
