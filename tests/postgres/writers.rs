//! Writers that reconnect all the time and remember what was acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pgmigration::postgres::carrier::Carrier;
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, SOON};

/// A crowd of writers into `ledger(writer, number)` of one database name.
pub struct Writers {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Vec<AtomicU64>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Starts `count` writers; every second one is superuser, the others are the role `owner`. Each opens a session,
    /// inserts numbers from 1 upwards, one a transaction, and opens the next session when that one fails or after 50.
    pub fn start(cluster: &Cluster, database: &str, count: usize) -> Self {
        Self::start_as(cluster, database, count, &["postgres", "owner"])
    }

    /// The same with these roles in turn.
    pub fn start_as(cluster: &Cluster, database: &str, count: usize, roles: &[&str]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged: Arc<Vec<AtomicU64>> = Arc::new((0..count).map(|_| AtomicU64::new(0)).collect());
        let tasks = (0..count)
            .map(|writer| {
                let carrier = cluster.carrier(roles[writer % roles.len()]).with_name("writer");
                let (stop, acknowledged, database) = (stop.clone(), acknowledged.clone(), database.to_owned());
                tokio::spawn(async move {
                    // Numbers are never used twice, whatever became of the statement that carried one.
                    let mut number = 0;
                    while !stop.load(Ordering::SeqCst) {
                        let Ok(mut session) = carrier.connect(&database, SOON).await else {
                            tokio::time::sleep(Duration::from_millis(2)).await;
                            continue;
                        };
                        for _ in 0..50 {
                            number += 1;
                            let insert = format!("INSERT INTO public.ledger VALUES ({writer}, {number})");
                            if session.execute(&insert, SOON).await.is_err() {
                                break;
                            }
                            acknowledged[writer].fetch_add(1, Ordering::SeqCst);
                            if stop.load(Ordering::SeqCst) {
                                break;
                            }
                        }
                    }
                })
            })
            .collect();
        Self { stop, acknowledged, tasks }
    }

    /// How many rows were acknowledged so far, of all writers.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.iter().map(|count| count.load(Ordering::SeqCst)).sum()
    }

    /// Waits until this many more rows are acknowledged.
    pub async fn until_more(&self, rows: u64) {
        let goal = self.acknowledged() + rows;
        let wait = async {
            while self.acknowledged() < goal {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, wait).await.expect("the writers write");
    }

    /// Ends the writers; returns the acknowledged rows of each.
    pub async fn finish(self) -> Vec<u64> {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.expect("a writer ends");
        }
        self.acknowledged.iter().map(|count| count.load(Ordering::SeqCst)).collect()
    }
}
