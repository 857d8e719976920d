//! The lease on a real API server: one holder, handed over, taken over, and counted as lost in time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use pgmigration::operator::leader::{LEASE, Leader};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::{Room, Side};

async fn holder(client: &Client, namespace: &str) -> Option<String> {
    Api::<Lease>::namespaced(client.clone(), namespace).get(LEASE).await.unwrap().spec.unwrap().holder_identity
}

#[tokio::test]
async fn handed_over_at_once_and_taken_over_when_its_holder_is_silent() {
    let room = Room::new(Side::Old, "lease").await;
    let client = Side::Old.client().await;
    let first = Leader::acquire(client.clone(), &room.name, "first").await;
    assert_eq!(holder(&client, &room.name).await.as_deref(), Some("first"));

    let second = tokio::spawn({
        let (client, namespace) = (client.clone(), room.name.clone());
        async move { Leader::acquire(client, &namespace, "second").await }
    });
    // Renewed, it stays with the first for longer than it lasts.
    let mut first = first;
    assert!(timeout(Duration::from_secs(20), first.keep()).await.is_err(), "the first lost a lease that it renewed");
    assert!(!second.is_finished());

    let given = Instant::now();
    first.release().await;
    let second = timeout(Duration::from_secs(10), second).await.expect("the second did not take a free lease").unwrap();
    assert!(given.elapsed() < Duration::from_secs(5));

    // The second says nothing any more: a crash.
    drop(second);
    let silent = Instant::now();
    let mut third = Leader::acquire(client.clone(), &room.name, "third").await;
    assert!(silent.elapsed() >= Duration::from_secs(15), "taken after only {:?}", silent.elapsed());
    assert_eq!(holder(&client, &room.name).await.as_deref(), Some("third"));

    // Somebody takes it away.
    let thief = json!({"spec": {"holderIdentity": "fourth"}});
    Api::<Lease>::namespaced(client, &room.name).patch(LEASE, &PatchParams::default(), &Patch::Merge(thief)).await.unwrap();
    let lost = timeout(Duration::from_secs(10), third.keep()).await.expect("the third did not see that it lost the lease");
    assert!(lost.to_string().contains("somebody else"), "{lost}");
    room.end().await;
}

#[tokio::test]
async fn a_restarted_container_goes_on_with_its_own_lease() {
    let room = Room::new(Side::Old, "lease").await;
    let client = Side::Old.client().await;
    drop(Leader::acquire(client.clone(), &room.name, "same").await);
    timeout(Duration::from_secs(5), Leader::acquire(client, &room.name, "same")).await.expect("it waited for itself");
    room.end().await;
}

#[tokio::test]
async fn lost_before_others_may_take_it_when_the_api_server_is_out_of_reach() {
    let room = Room::new(Side::Old, "lease").await;
    // A client behind a wire that can be cut.
    let mut config = Side::Old.config().await;
    let server = format!("{}:{}", config.cluster_url.host().unwrap(), config.cluster_url.port_u16().unwrap());
    let wire = TcpListener::bind("127.0.0.1:0").await.unwrap();
    config.tls_server_name = Some(config.cluster_url.host().unwrap().into());
    config.cluster_url = format!("https://{}", wire.local_addr().unwrap()).parse().unwrap();
    let cut = CancellationToken::new();
    let gone = Arc::new(cut.clone());
    tokio::spawn(async move {
        while let Ok((mut near, _)) = wire.accept().await {
            let (server, gone) = (server.clone(), Arc::clone(&gone));
            tokio::spawn(async move {
                if gone.is_cancelled() {
                    // Silence, not a refusal: the harder case.
                    return std::future::pending().await;
                }
                let mut far = TcpStream::connect(server).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    () = gone.cancelled() => std::future::pending().await,
                }
            });
        }
    });
    let mut leader = Leader::acquire(Client::try_from(config).unwrap(), &room.name, "cut-off").await;
    let since = Instant::now();
    cut.cancel();
    let lost =
        timeout(Duration::from_secs(14), leader.keep()).await.expect("still thought to lead when others may take the lease");
    assert!(since.elapsed() < Duration::from_secs(13), "{:?}", since.elapsed());
    assert!(lost.to_string().contains("no renewal"), "{lost}");
    room.end().await;
}
