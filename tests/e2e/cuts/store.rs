//! A throwaway S3 server of these tests' own, so that its network can be spoiled and its files damaged: one bucket, served
//! plainly, with TLS, and with TLS by the certificate of an authority that nobody trusts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use pgmigration::archive::{Bucket, BucketConfig};

use crate::support::setting;

pub const ACCESS: &str = "cutsaccess";
pub const SECRET: &str = "cutssecretcutssecret";
pub const BUCKET: &str = "cuts";

/// The running servers. They end with it.
pub struct Store {
    /// Ports on 127.0.0.1: without TLS, with TLS, with TLS of the other authority.
    pub plain: u16,
    pub tls: u16,
    pub other: u16,
    /// PEM of the authority that is trusted.
    pub ca: Vec<u8>,
    root: PathBuf,
    servers: Vec<Child>,
    /// Ends the threads that the servers die with.
    threads: Vec<mpsc::Sender<()>>,
}

impl Store {
    /// Starts the servers over one empty bucket.
    pub async fn new(purpose: &str) -> Self {
        let root = std::env::temp_dir().join(format!("pgm-cuts-{}-{purpose}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        for folder in ["data/cuts", "tls", "other", "iam"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for authority in ["tls", "other"] {
            certificates(&root.join(authority));
        }
        let mut store = Self {
            plain: free(),
            tls: free(),
            other: free(),
            ca: fs::read(root.join("tls/ca.crt")).unwrap(),
            root,
            servers: Vec::new(),
            threads: Vec::new(),
        };
        for (port, tls) in [(store.plain, None), (store.tls, Some("tls")), (store.other, Some("other"))] {
            let (server, thread) = store.serve(port, tls);
            store.servers.push(server);
            store.threads.push(thread);
        }
        for port in [store.plain, store.tls, store.other] {
            let until = tokio::time::Instant::now() + Duration::from_secs(20);
            while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                assert!(tokio::time::Instant::now() < until, "versitygw does not listen on {port}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        store
    }

    fn serve(&self, port: u16, tls: Option<&str>) -> (Child, mpsc::Sender<()>) {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(setting("PGM_VERSITYGW"));
        command.args(["--quiet", "--port", &format!("127.0.0.1:{port}")]);
        if let Some(folder) = tls {
            let folder = self.root.join(folder);
            command.arg("--cert").arg(folder.join("server.crt")).arg("--key").arg(folder.join("server.key"));
        }
        command.arg("--iam-dir").arg(self.root.join("iam")).arg("posix").arg(self.root.join("data"));
        command.env("ROOT_ACCESS_KEY_ID", ACCESS).env("ROOT_SECRET_ACCESS_KEY", SECRET);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // A server dies with the thread that started it, so that none outlives a test that was killed.
        let (started, server) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        std::thread::spawn(move || {
            started.send(command.spawn().unwrap()).unwrap();
            let _ = ended.recv();
        });
        (server.recv().unwrap(), end)
    }

    /// A client of the bucket, with nothing in between.
    pub fn bucket(&self) -> Bucket {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Bucket::connect(&BucketConfig {
            bucket: BUCKET.into(),
            endpoint: Some(format!("http://127.0.0.1:{}", self.plain)),
            region: "us-east-1".into(),
            force_path_style: true,
            access_key: ACCESS.into(),
            secret_key: SECRET.into(),
            ca_pem: None,
        })
        .unwrap()
    }

    /// The file that holds an object. What the server knows of the object besides stands in the file's attributes.
    pub fn file(&self, key: &str) -> PathBuf {
        self.root.join("data").join(BUCKET).join(key)
    }

    /// A folder for other files.
    pub fn scratch(&self) -> &Path {
        &self.root
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
        // After a failure the files tell why.
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}

fn free() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn certificates(folder: &Path) {
    let script = r"
        set -e
        for key in ca server; do openssl ecparam -genkey -name prime256v1 -noout -out $key.key; done
        openssl req -x509 -new -sha256 -days 30 -key ca.key -out ca.crt -subj /CN=cuts-ca \
            -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
        openssl req -new -key server.key -subj /CN=localhost -out server.csr
        printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n' > ext
        openssl x509 -req -sha256 -days 30 -in server.csr -CA ca.crt -CAkey ca.key -set_serial 2 -out server.crt -extfile ext
    ";
    let output = Command::new("sh").args(["-c", script]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
