//! One versitygw with TLS and one without, shared by all tests of the process; each test gets its own bucket.

use pgmigration::archive::{Bucket, BucketConfig};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub const ACCESS: &str = "testaccess";
pub const SECRET: &str = "testsecrettestsecret";

pub struct Server {
    pub tls_port: u16,
    pub plain_port: u16,
    pub ca: Vec<u8>,
    data: PathBuf,
}

/// The shared server, started at the first call.
pub fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(start)
}

impl Server {
    /// A new empty bucket, with the settings that reach it over TLS.
    pub fn bucket(&self, name: &str) -> BucketConfig {
        std::fs::create_dir(self.data.join(name)).unwrap();
        self.config(name)
    }

    pub fn config(&self, bucket: &str) -> BucketConfig {
        BucketConfig {
            bucket: bucket.into(),
            endpoint: Some(format!("https://127.0.0.1:{}", self.tls_port)),
            region: "us-east-1".into(),
            force_path_style: true,
            access_key: ACCESS.into(),
            secret_key: SECRET.into(),
            ca_pem: Some(self.ca.clone()),
        }
    }
}

/// A client of a new bucket.
pub fn bucket(name: &str) -> Bucket {
    Bucket::connect(&server().bucket(name)).unwrap()
}

/// The same bytes for the same seed, hard to compress.
pub fn noise(bytes: usize, mut seed: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.extend_from_slice(&(seed >> 11).to_le_bytes());
    }
    out.truncate(bytes);
    out
}

fn start() -> Server {
    let root = std::env::temp_dir().join(format!("pgm-archive-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&root);
    for dir in ["data", "tls", "iam"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    certificates(&root.join("tls"));
    let (tls_port, plain_port) = (free_port(), free_port());
    run(&root, tls_port, true);
    run(&root, plain_port, false);
    for port in [tls_port, plain_port] {
        await_port(port);
    }
    Server { tls_port, plain_port, ca: std::fs::read(root.join("tls/ca.crt")).unwrap(), data: root.join("data") }
}

fn versitygw() -> PathBuf {
    let path = std::env::var_os("PGM_VERSITYGW").map(PathBuf::from).expect("PGM_VERSITYGW must name the versitygw binary");
    assert!(path.is_file(), "PGM_VERSITYGW names no file: {}", path.display());
    path
}

fn run(root: &Path, port: u16, tls: bool) {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(versitygw()).args(["--quiet", "--port", &format!("127.0.0.1:{port}")]);
    if tls {
        command.arg("--cert").arg(root.join("tls/server.crt")).arg("--key").arg(root.join("tls/server.key"));
    }
    command.arg("--iam-dir").arg(root.join("iam")).arg("posix").arg(root.join("data"));
    command.env("ROOT_ACCESS_KEY_ID", ACCESS).env("ROOT_SECRET_ACCESS_KEY", SECRET);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // The server dies with the thread that started it: one that lives as long as the process.
    std::thread::spawn(move || {
        let mut child = command.spawn().expect("setpriv and versitygw must run");
        let status = child.wait();
        eprintln!("versitygw ended: {status:?}");
        std::thread::park();
    });
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn await_port(port: u16) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "versitygw does not listen on {port}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn certificates(dir: &Path) {
    let script = r"
        set -e
        openssl ecparam -genkey -name prime256v1 -noout -out ca.key
        openssl ecparam -genkey -name prime256v1 -noout -out server.key
        openssl req -x509 -new -sha256 -days 30 -key ca.key -out ca.crt -subj /CN=test-ca \
            -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
        openssl req -new -key server.key -subj /CN=localhost -out server.csr
        printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n' > ext
        openssl x509 -req -sha256 -days 30 -in server.csr -CA ca.crt -CAkey ca.key -set_serial 2 -out server.crt -extfile ext
        openssl req -x509 -new -sha256 -days 30 -key ca.key -out other.crt -subj /CN=other-ca
    ";
    let output = Command::new("sh").args(["-c", script]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
