//! The two clusters as tests see them, and the operator as it is shipped.

pub mod application;
pub mod dice;
pub mod ledger;
pub mod migration;
pub mod scene;
pub mod server;
pub mod snapshot;

use std::env;
use std::fmt::Debug;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tokio::sync::{OnceCell, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The operator's namespace, as shipped.
pub const SYSTEM: &str = "pgmigration-system";
/// Name of the operator's Deployment, ServiceAccount and Service, as shipped.
pub const OPERATOR: &str = "postgres-migration-operator";
/// Far more than anything takes here that works.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A setting of the environment.
pub fn setting(name: &str) -> String {
    env::var(name).ok().filter(|value| !value.is_empty()).unwrap_or_else(|| {
        panic!("{name} is not set; for the clusters of tests/cluster: tests/cluster/up, tests/cluster/image, eval \"$(tests/cluster/env)\"")
    })
}

/// Which cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that databases leave.
    Old,
    /// The one that they go to. The operator runs here.
    New,
}

impl Side {
    /// Path of its administrator's kubeconfig.
    pub fn kubeconfig(self) -> String {
        setting(match self {
            Self::Old => "PGM_OLD_KUBECONFIG",
            Self::New => "PGM_NEW_KUBECONFIG",
        })
    }

    /// Its client configuration, as administrator.
    pub async fn config(self) -> Config {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig()).unwrap();
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap()
    }

    /// A client of it, as administrator.
    pub async fn client(self) -> Client {
        Client::try_from(self.config().await).unwrap()
    }

    /// Runs kubectl with `input` on its standard input and returns what it prints.
    pub fn kubectl(self, arguments: &[&str], input: impl AsRef<[u8]> + Send) -> Result<String, String> {
        let mut child = Command::new(env::var("PGM_KUBECTL").unwrap_or_else(|_| "kubectl".into()))
            .args(["--kubeconfig", &self.kubeconfig()])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // Beside the reading of its output, or both would wait. A program may end before it has read everything: its exit status
        // tells.
        let output = std::thread::scope(|scope| {
            scope.spawn(move || {
                let _ = stdin.write_all(input.as_ref());
            });
            child.wait_with_output().unwrap()
        });
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// Runs kubectl without holding up other tasks.
    pub async fn kubectl_aside(self, arguments: &[&str], input: impl AsRef<[u8]>) -> Result<String, String> {
        let (arguments, input) = (arguments.iter().map(|&word| word.to_owned()).collect::<Vec<_>>(), input.as_ref().to_vec());
        let run = move || self.kubectl(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), input);
        tokio::task::spawn_blocking(run).await.unwrap()
    }

    /// Applies manifests.
    pub fn apply(self, manifests: &str) {
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], manifests).unwrap();
    }
}

/// What `config/render` prints.
pub fn render(arguments: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/render");
    let output = Command::new(script).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A namespace of a test's own. `end` it when all is well; after a failure it stays to be looked at.
pub struct Room {
    /// Its name.
    pub name: String,
    client: Client,
}

impl Room {
    /// Makes a namespace whose name begins with `pgm-e2e-` and `purpose`.
    pub async fn new(side: Side, purpose: &str) -> Self {
        let client = side.client().await;
        let metadata = ObjectMeta {
            generate_name: Some(format!("pgm-e2e-{purpose}-")),
            labels: Some([("pgmigration.dev/test".to_owned(), "true".to_owned())].into()),
            ..ObjectMeta::default()
        };
        let namespace = Namespace { metadata, ..Namespace::default() };
        let made = Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
        Self { name: made.metadata.name.unwrap(), client }
    }

    /// Deletes it; does not wait for the end.
    pub async fn end(self) {
        Api::<Namespace>::all(self.client).delete(&self.name, &DeleteParams::default()).await.unwrap();
    }
}

/// Looks again until `look` finds something; fails with what it said last after [`PATIENCE`].
pub async fn eventually<T, E: Debug, F: Future<Output = Result<T, E>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(why) => assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}: {why:?}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The operator in cluster new, installed as shipped from the image under test: once for all tests of the process.
pub async fn operator() {
    static INSTALLED: OnceCell<()> = OnceCell::const_new();
    INSTALLED
        .get_or_init(|| async {
            Side::New.apply(&render(&["operator", &setting("PGM_IMAGE")]));
            available(&Side::New.client().await, SYSTEM, OPERATOR).await;
        })
        .await;
}

static INTERRUPTED: RwLock<()> = RwLock::const_new(());

/// While it is held, no test of this process takes the operator away.
pub async fn undisturbed() -> RwLockReadGuard<'static, ()> {
    INTERRUPTED.read().await
}

/// The right to take the operator away for a moment: waits for those who must not miss it.
pub async fn interrupting() -> RwLockWriteGuard<'static, ()> {
    INTERRUPTED.write().await
}

/// Waits until all replicas of a Deployment's present form are available.
pub async fn available(client: &Client, namespace: &str, name: &str) {
    let api = Api::<Deployment>::namespaced(client.clone(), namespace);
    eventually(&format!("Deployment {name} to become available"), || async {
        let deployment = api.get(name).await.map_err(|error| error.to_string())?;
        let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let status = deployment.status.clone().unwrap_or_default();
        let current = status.observed_generation >= deployment.metadata.generation;
        let counts = [status.replicas, status.updated_replicas, status.available_replicas];
        if current && counts.iter().all(|count| *count == Some(wanted)) { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
}
