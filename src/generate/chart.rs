//! The chart: the files of `config/operator` with values in the place of what an installation decides.

use std::path::Path;

use super::{Error, Generated, HEADER};

const CHART: &str = "charts/postgres-migration-operator";

/// What stands in `config/operator` for the installation to decide, and the chart's expression for it.
const NAMESPACE: (&str, &str) = ("namespace: pgmigration-system", "namespace: {{ .Release.Namespace }}");
const DEPLOYMENT: [(&str, &str); 6] = [
    NAMESPACE,
    (
        "image: postgres-migration-operator\n",
        "image: {{ required \"image must name the operator's image\" .Values.image | quote }}\n",
    ),
    ("value: postgres-migration-operator\n", "value: {{ .Values.image | quote }}\n"),
    ("replicas: 1\n", "replicas: {{ .Values.replicas }}\n"),
    ("value: json\n", "value: {{ .Values.log.format }}\n"),
    ("value: info\n", "value: {{ .Values.log.filter | quote }}\n"),
];

pub(super) fn files(root: &Path, definition: &str) -> Result<Vec<Generated>, Error> {
    Ok(vec![
        Generated { path: format!("{CHART}/Chart.yaml").into(), text: about() },
        Generated { path: format!("{CHART}/templates/postgresmigrations.yaml").into(), text: guarded(definition) },
        Generated {
            path: format!("{CHART}/templates/rbac.yaml").into(),
            text: template(root, "config/operator/rbac.yaml", &[NAMESPACE])?,
        },
        Generated {
            path: format!("{CHART}/templates/deployment.yaml").into(),
            text: template(root, "config/operator/deployment.yaml", &DEPLOYMENT)?,
        },
    ])
}

fn about() -> String {
    format!(
        "{HEADER}apiVersion: v2\nname: {}\ndescription: \"{}\"\ntype: application\nversion: {version}\nappVersion: {version}\n\
         kubeVersion: \">=1.30.0-0\"\n",
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_DESCRIPTION"),
        version = env!("CARGO_PKG_VERSION"),
    )
}

/// The definition is a template, not a file of `crds/`, so that an upgrade brings it up to date; and it stays when the release
/// goes, because every PostgresMigration would go with it.
fn guarded(definition: &str) -> String {
    let kept = definition.replacen("metadata:\n", "metadata:\n  annotations:\n    helm.sh/resource-policy: keep\n", 1);
    format!("{{{{- if .Values.crd }}}}\n{kept}{{{{- end }}}}\n")
}

fn template(root: &Path, file: &str, replacements: &[(&str, &str)]) -> Result<String, Error> {
    let path = root.join(file);
    let mut text = std::fs::read_to_string(&path).map_err(|error| Error::File(path, error))?;
    for (from, to) in replacements {
        if !text.contains(from) {
            return Err(Error::NotFound { file: file.into(), text: (*from).into() });
        }
        text = text.replace(from, to);
    }
    Ok(format!("{HEADER}{text}"))
}
