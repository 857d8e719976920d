use super::*;
use serde_json::json;

/// A self-signed certificate made for these tests; its key was thrown away.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBiTCCAS+gAwIBAgIUAoXnDnWhxDg1yPDY+2LPXkgPYrcwCgYIKoZIzj0EAwIw
GTEXMBUGA1UEAwwOdGVzdC1hdXRob3JpdHkwIBcNMjYxMTIzMDYzNTM4WhgPMjEy
NjEwMzAwNjM1MzhaMBkxFzAVBgNVBAMMDnRlc3QtYXV0aG9yaXR5MFkwEwYHKoZI
zj0CAQYIKoZIzj0DAQcDQgAEH11iyPvm72G5J8PnJBEaImKaVIXzklqHO6pDTdSl
RP9Nx8lycHbzQ33e8rbDhiZFd1JYfN9qUdCO9VDuR5O5UqNTMFEwHQYDVR0OBBYE
FJ0PNonn36nbo7yiRF5k9r2sbX7IMB8GA1UdIwQYMBaAFJ0PNonn36nbo7yiRF5k
9r2sbX7IMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIgdxULidKK
hq20U9lBhGgXcUs5d2CvEZUFiINZTkvtF3sCIQCND0ISPYQlovA3fqTVNBbPtUbF
4KdJJ0w73JEdYiav3Q==
-----END CERTIFICATE-----
";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";

fn b64(text: &str) -> Value {
    serde_json::to_value(ByteString(text.as_bytes().to_vec())).unwrap()
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

/// JSON is YAML: the document is changed as a value and read as text.
fn good() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "onyx"}}],
        "clusters": [{"name": "k", "cluster": {"server": "https://api.old.example:6443", "certificate-authority-data": b64(CERTIFICATE)}}],
        "users": [{"name": "u", "user": {"token": "sha256~abc"}}],
    })
}

fn read(document: &Value) -> Result<Kubeconfig, KubeconfigError> {
    parse(&document.to_string(), now())
}

/// A JWT whose claims are these; its signature is not looked at.
fn jwt(claims: &str) -> String {
    let part = |text: &str| b64(text).as_str().unwrap().trim_end_matches('=').replace('+', "-").replace('/', "_");
    format!("{}.{}.sig", part(r#"{"alg":"RS256"}"#), part(claims))
}

#[test]
fn a_service_account_kubeconfig_is_read() {
    let yaml = format!(
        "apiVersion: v1\nkind: Config\npreferences: {{}}\nclusters:\n- name: k\n  cluster:\n    server: https://api.old.example:6443/k8s/c1\n    \
         certificate-authority-data: {}\n    tls-server-name: kubernetes\n    insecure-skip-tls-verify: false\n    certificate-authority: ''\ncontexts:\n- name: c\n  context: {{cluster: k, user: u}}\n\
         current-context: c\nusers:\n- name: u\n  user:\n    token: {}\n",
        b64(CERTIFICATE).as_str().unwrap(),
        jwt(r#"{"exp":1800000001}"#)
    );
    let read = parse(&yaml, now()).unwrap();
    assert_eq!(read.server.to_string(), "https://api.old.example:6443/k8s/c1");
    assert_eq!(read.authorities.len(), 1);
    assert_eq!(read.tls_server_name.as_deref(), Some("kubernetes"));
    assert!(matches!(read.credential, Credential::Token(_)));
}

#[test]
fn a_client_certificate_is_read() {
    let mut document = good();
    document["users"][0]["user"] = json!({"client-certificate-data": b64(CERTIFICATE), "client-key-data": b64(KEY)});
    assert!(matches!(read(&document).unwrap().credential, Credential::Certificate { .. }));
    assert_eq!(read(&document).unwrap().namespace.as_deref(), Some("onyx"));
}

#[test]
fn entries_that_are_not_used_do_not_matter() {
    let mut document = good();
    document["users"].as_array_mut().unwrap().push(json!({"name": "other", "user": {"exec": {"command": "aws"}}}));
    document["contexts"].as_array_mut().unwrap().push(json!({"name": "other", "context": {"cluster": "k", "user": "other"}}));
    assert!(read(&document).is_ok());
    document["current-context"] = "other".into();
    assert!(read(&document).unwrap_err().to_string().contains("user.exec"));
}

#[test]
fn everything_else_is_refused_by_name() {
    // (pointer to set, value, what the refusal must say). A null value removes the member.
    let user = "/users/0/user";
    let cluster = "/clusters/0/cluster";
    let corpus: Vec<(String, Value, &str)> = vec![
        (format!("{user}/exec"), json!({"apiVersion": "client.authentication.k8s.io/v1", "command": "sh"}), "user.exec"),
        (format!("{user}/auth-provider"), json!({"name": "gcp"}), "user.auth-provider"),
        (format!("{user}/tokenFile"), json!("/var/run/secrets/kubernetes.io/serviceaccount/token"), "user.tokenFile"),
        (format!("{user}/client-certificate"), json!("/etc/passwd"), "user.client-certificate "),
        (format!("{user}/client-key"), json!("/etc/shadow"), "user.client-key "),
        (format!("{user}/username"), json!("admin"), "user.username"),
        (format!("{user}/password"), json!("hunter2"), "user.password"),
        (format!("{user}/as"), json!("system:admin"), "user.as "),
        (format!("{user}/as-uid"), json!("1"), "user.as-uid"),
        (format!("{user}/as-groups"), json!(["system:masters"]), "user.as-groups"),
        (format!("{user}/as-user-extra"), json!({"a": ["b"]}), "user.as-user-extra"),
        (format!("{user}/tomorrow"), json!("x"), "user.tomorrow is not known"),
        (format!("{user}/token"), json!("a\r\nImpersonate-User: admin"), "user.token"),
        (format!("{user}/token"), json!(["a"]), "user.token is not text"),
        (format!("{user}/token"), json!(""), "no token and no client certificate"),
        (user.into(), json!({"client-key-data": b64(KEY)}), "user.client-certificate-data is absent"),
        (format!("{user}/client-certificate-data"), b64(CERTIFICATE), "not both"),
        (user.into(), json!({"client-certificate-data": b64(CERTIFICATE)}), "user.client-key-data is absent"),
        (user.into(), json!({"client-certificate-data": b64("x"), "client-key-data": b64(KEY)}), "no PEM certificate"),
        (user.into(), json!({"client-certificate-data": b64(CERTIFICATE), "client-key-data": b64("x")}), "no PEM private key"),
        (user.into(), json!({}), "no token and no client certificate"),
        (format!("{cluster}/insecure-skip-tls-verify"), json!(true), "insecure-skip-tls-verify"),
        (format!("{cluster}/insecure-skip-tls-verify"), json!("true"), "insecure-skip-tls-verify"),
        (format!("{cluster}/proxy-url"), json!("http://169.254.169.254"), "cluster.proxy-url"),
        (format!("{cluster}/certificate-authority"), json!("/etc/ssl/ca.crt"), "cluster.certificate-authority "),
        (format!("{cluster}/certificate-authority-data"), json!("not base64!"), "is not base64"),
        (format!("{cluster}/certificate-authority-data"), b64("no pem"), "no PEM certificate"),
        (format!("{cluster}/certificate-authority-data"), json!(""), "certificate-authority-data is absent"),
        (format!("{cluster}/server"), json!("http://api.old.example"), "must begin with https://"),
        (format!("{cluster}/server"), json!("api.old.example:6443"), "cluster.server"),
        (format!("{cluster}/server"), json!("unix:///var/run/docker.sock"), "cluster.server"),
        (format!("{cluster}/server"), json!("https://user:pass@api.old.example"), "user name or password"),
        (format!("{cluster}/server"), json!("https://api.old.example/?a=b"), "https://host"),
        (format!("{cluster}/server"), json!("https:///path"), "cluster.server"),
        (format!("{cluster}/server"), json!(7), "cluster.server is not text"),
        (format!("{cluster}/tomorrow"), json!(1), "cluster.tomorrow is not known"),
        ("/current-context".into(), json!(""), "current-context is absent"),
        ("/current-context".into(), json!("other"), "contexts has no entry"),
        ("/contexts/0/context/cluster".into(), json!("other"), "clusters has no entry"),
        ("/contexts/0/context/user".into(), json!("other"), "users has no entry"),
        ("/contexts/0/context/proxy".into(), json!("x"), "context.proxy is not known"),
        ("/contexts".into(), json!([]), "contexts has no entry"),
        ("/clusters".into(), json!({}), "clusters is not a list"),
        ("/apiVersion".into(), json!("v2"), "apiVersion is not v1"),
        ("/kind".into(), json!("Secret"), "kind is not Config"),
        ("/tomorrow".into(), json!("x"), "kubeconfig.tomorrow is not known"),
    ];
    for (pointer, value, expected) in corpus {
        let mut document = good();
        let (parent, member) = pointer.rsplit_once('/').unwrap();
        let parent = document.pointer_mut(parent).unwrap();
        match member.parse::<usize>() {
            Ok(index) => parent[index] = value,
            Err(_) => parent[member] = value,
        }
        match read(&document) {
            Err(KubeconfigError::Refused(why)) => assert!(why.contains(expected), "{pointer}: {why}"),
            other => panic!("{pointer}: {other:?}"),
        }
    }
}

#[test]
fn two_entries_of_one_name_are_refused() {
    let mut document = good();
    let twin = document["users"][0].clone();
    document["users"].as_array_mut().unwrap().push(twin);
    assert!(read(&document).unwrap_err().to_string().contains("two entries"));
}

#[test]
fn documents_that_are_not_plain_are_refused() {
    let text = good().to_string();
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n".to_owned();
    let nested = format!("{}{}", "[".repeat(2000), "]".repeat(2000));
    let twice = format!("current-context: a\n{}", "current-context: b\n");
    let many = format!("{text}\n---\n{text}");
    let list = "[]".to_owned();
    let nothing = String::new();
    let binary = "\u{0}\u{1}".to_owned();
    for (name, document) in [
        ("bomb", bomb),
        ("nested", nested),
        ("twice", twice),
        ("many", many),
        ("list", list),
        ("nothing", nothing),
        ("binary", binary),
    ] {
        assert!(matches!(parse(&document, now()), Err(KubeconfigError::Refused(_))), "{name}");
    }
    let large = format!("# {}\n{text}", "x".repeat(LIMIT));
    assert!(parse(&large, now()).unwrap_err().to_string().contains("more than 65536"));
}

#[test]
fn the_end_of_a_token_is_told() {
    let with = |token: String| {
        let mut document = good();
        document["users"][0]["user"]["token"] = token.into();
        read(&document)
    };
    assert!(with(jwt(r#"{"exp":1800000001}"#)).is_ok());
    assert_eq!(with(jwt(r#"{"exp":1800000000}"#)).unwrap_err(), KubeconfigError::Expired(now()));
    assert!(with(jwt(r#"{"exp":1799999999.5}"#)).unwrap_err().to_string().contains("expired at 2027-01-15T07:59:59Z"));
    // No JWT, no end, or one that cannot be read: only the server can tell.
    for open in
        ["a.b".into(), "a.b.c".into(), jwt(r#"{"sub":"x"}"#), jwt(r#"{"exp":"soon"}"#), jwt(r#"{"exp":1e300}"#), jwt("[]")]
    {
        assert!(with(open).is_ok());
    }
}

#[test]
fn no_refusal_and_no_debug_output_shows_a_credential() {
    let mut document = good();
    document["users"][0]["user"]["token"] = "s3cr3t s3cr3t".into();
    assert!(!format!("{:?}", read(&document)).contains("s3cr3t"));
    let broken = "users: [{name: u, user: {token: s3cr3t}]";
    assert!(!parse(broken, now()).unwrap_err().to_string().contains("s3cr3t"));
    document["users"][0]["user"]["token"] = "s3cr3t".into();
    assert!(!format!("{:?}", read(&document).unwrap()).contains("s3cr3t"));
}
