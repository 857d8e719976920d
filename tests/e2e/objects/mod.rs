//! The room `kubernetes` against a real API server, as an account that holds exactly the shipped Roles.

mod access;
mod jobs;
mod settings;
mod workloads;

use kube::Client;
use pgmigration::kubernetes::access::{Right, missing};
use pgmigration::kubernetes::clients::impersonated;

use crate::support::{Room, Side, eventually, render, setting};

/// Name of the account.
const ACCOUNT: &str = "worker";

/// A namespace in cluster old, and a client with the rights that a migration's account has there.
struct Stage {
    room: Room,
    client: Client,
}

impl Stage {
    async fn new(purpose: &str) -> Self {
        let room = Room::new(Side::Old, purpose).await;
        for part in ["account", "source", "target"] {
            Side::Old.apply(&render(&[part, &room.name, ACCOUNT]));
        }
        let client = impersonated(&Side::Old.config().await, &room.name, ACCOUNT).unwrap();
        // The authorizer learns of new Roles a moment later.
        let rights =
            [Right::new("list", "", "pods"), Right::new("patch", "apps", "deployments"), Right::new("get", "", "secrets")];
        eventually("the account's rights", || async {
            match missing(&client, &room.name, &rights).await {
                Ok(missing) if missing.is_empty() => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        Self { room, client }
    }

    fn namespace(&self) -> &str {
        &self.room.name
    }

    fn apply(&self, manifests: &str) {
        Side::Old.kubectl(&["-n", &self.room.name, "apply", "--server-side", "-f", "-"], manifests).unwrap();
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        Side::Old.kubectl(&[&["-n", &self.room.name], arguments].concat(), "").unwrap()
    }
}

/// A Deployment, StatefulSet or ReplicaSet whose pods sleep, and take `grace` seconds to end.
fn sleeper(kind: &str, name: &str, replicas: i32, grace: u32) -> String {
    let image = setting("PGM_PG15_IMAGE");
    let service = if kind == "StatefulSet" { format!("\n  serviceName: {name}") } else { String::new() };
    format!(
        "apiVersion: apps/v1
kind: {kind}
metadata: {{name: {name}, labels: {{tier: writers}}}}
spec:
  replicas: {replicas}{service}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: {grace}
      containers:
      - name: main
        image: {image}
        command: [sleep, infinity]
        env: [{{name: POSTGRES_HOST, value: old}}, {{name: OTHER, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]
---
"
    )
}
