//! What operator and movers say of the boundaries that they pass.

use serde_json::Value;

use crate::support::{OPERATOR, SYSTEM, Side};

/// A time for `kubectl logs --since-time`.
pub fn now() -> String {
    k8s_openapi::jiff::Timestamp::now().to_string()
}

/// Boundaries that the operator passed at work for the object `uid`, each once, and those that it ended at.
pub async fn of_operator(uid: &str, since: &str) -> (Vec<String>, Vec<String>) {
    let (label, since) = (format!("app.kubernetes.io/name={OPERATOR}"), format!("--since-time={since}"));
    let arguments = ["-n", SYSTEM, "logs", "-l", &label, "--tail=-1", &since];
    let text = Side::New.kubectl_aside(&arguments, "").await.unwrap();
    let (mut passed, mut ended) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        let (Some(boundary), true) = (line["boundary"].as_str(), line["uid"] == uid) else { continue };
        match line["message"].as_str() {
            Some("passed a boundary") => once(&mut passed, boundary),
            Some("ending at a boundary") => ended.push(boundary.to_owned()),
            _ => {}
        }
    }
    (passed, ended)
}

/// Boundaries that the movers of the object `uid` passed whose pods are still there, each once.
pub async fn of_movers(namespace: &str, uid: &str) -> Vec<String> {
    let label = format!("pgmigration.dev/migration-uid={uid}");
    let pods = ["-n", namespace, "get", "pods", "-l", &label, "-o", "name"];
    let mut passed = Vec::new();
    for pod in Side::New.kubectl_aside(&pods, "").await.unwrap().lines() {
        // The schema job's pod has no such container: it has nothing to say here.
        let logs = ["-n", namespace, "logs", pod, "-c", "mover", "--tail=-1"];
        for line in Side::New.kubectl_aside(&logs, "").await.unwrap_or_default().lines() {
            let Some((_, quoted)) = line.split_once("boundary=") else { continue };
            let boundary: String = serde_json::from_str(quoted.trim()).unwrap_or_else(|error| panic!("{line}: {error}"));
            once(&mut passed, &boundary);
        }
    }
    passed
}

fn once(all: &mut Vec<String>, one: &str) {
    if !all.iter().any(|known| known == one) {
        all.push(one.to_owned());
    }
}
